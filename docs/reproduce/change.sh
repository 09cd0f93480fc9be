#!/bin/sh
# The cell that every change is judged by: GLASS, Table 4, all four parts, on the demo set.
# After a deliberate change of figures: sh docs/reproduce/change.sh save=docs/reproduce/change.json
exec "${ADBENCH:-.venv/bin/adbench}" reproduce paper=glass table=4 setting="+ projection" scale=cpu \
  dataset=demo category=weave dataset.image_size=128 train.steps=40 hardware.threads=1 oracle=0 \
  images.save=0 plain=true "$@"
