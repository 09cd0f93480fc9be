"""DFR: deep feature reconstruction by 1 x 1 convolutions."""
