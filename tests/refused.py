"""What is refused is refused in one sentence."""

import pytest

from sinkd.errors import SinkdError


def refused(call, *fragments: str) -> None:
    with pytest.raises(SinkdError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)
