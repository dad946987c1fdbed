"""Processes leave their group before they exit, and no object keeps it alive."""

import weakref

from torch import distributed

from sinkd.training.gather import leave_group


class Wrapped:
    """Refers to itself and to the group, as a sharded model does."""

    def __init__(self):
        self.mesh, self.me = distributed.device_mesh.init_device_mesh("cpu", (1,)), self


def test_leaving_the_group_frees_objects_that_refer_to_it(tmp_path):
    leave_group()  # without a group there is nothing to leave
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    held = weakref.ref(Wrapped())
    assert held() is not None
    leave_group()
    assert held() is None and not distributed.is_initialized()
