"""What is logged of a loss over pixels is a mean over pixels, in however many passes."""

import torch

from helpers.masked_steps import network
from helpers.shapes import CLASSES, labelled_batch
from understudy import Batch, Joint, Observation, StudentSpec
from understudy.tasks.segmentation import Segmentation
from understudy.training.build import BuildContext, build_student


def logged(batch: Batch, accumulate: int) -> float:
    spec = StudentSpec(network(0), update=Joint.Config(lr=0.1), accumulate=accumulate)
    student = build_student(spec, BuildContext(Segmentation(CLASSES), CLASSES, batch.images, None))
    student.begin_step(progress=0.0, epochs=1)
    return float(student.step(batch, Observation(), epoch=1).mean("task_loss"))


def test_the_logged_loss_is_that_of_one_pass_where_images_have_unequally_many_labelled_pixels() -> None:
    whole = labelled_batch(4)
    masks = whole.targets.clone()
    masks[0, 1:] = 255
    masks[1, :, 5:] = 255
    batch = Batch(whole.images.double(), masks, indices=whole.indices)
    torch.testing.assert_close(logged(batch, 4), logged(batch, 1), rtol=1e-9, atol=0)
