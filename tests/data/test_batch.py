"""A batch and its parts."""

import torch

from adbench.data.batch import Batch


def test_a_part_holds_the_chosen_images_in_the_order_asked():
    batch = Batch(
        image=torch.rand(3, 3, 4, 4),
        label=torch.tensor([0, 1, 0]),
        index=torch.tensor([5, 6, 7]),
        category=["nut", "nut", "bolt"],
        defect=["good", "hole", "good"],
        path=["a", "b", "c"],
        mask=torch.arange(3).view(3, 1, 1, 1) == 1,
    )
    part = batch.part([2, 0])
    assert torch.equal(part.image, batch.image[[2, 0]])
    assert part.index.tolist() == [7, 5]
    assert (part.path, part.category, part.defect) == (
        ["c", "a"],
        ["bolt", "nut"],
        ["good", "good"],
    )
    assert not part.mask.any()
    assert part.has_mask is None
    assert len(batch.part([])) == 0
