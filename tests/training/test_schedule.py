"""When the published scripts evaluate."""

import pytest

from sinkd.training.schedule import published_interval


@pytest.mark.parametrize(("task", "distils", "steps"), [("glue/cola", True, 5), ("glue/cola", False, 20)])
def test_students_are_evaluated_every_5_steps_and_teachers_every_20(task, distils, steps):
    interval = published_interval(task, distils)
    assert {interval(step) for step in (1, 100, 40_000)} == {steps}


def test_mnlis_students_are_evaluated_each_epoch_and_late_every_200_steps():
    interval = published_interval("glue/mnli", True)
    assert [interval(step) for step in (1, 30_000, 30_001)] == [None, None, 200]
    assert published_interval("glue/mnli", False)(1) == 20
