"""The numpy code that defines the layouts and the native code must pass the same tests."""

from collections.abc import Iterator

import pytest

from whimbrel.formats import ggml_types, packed


@pytest.fixture(scope="module", params=["numpy", "native"])
def packing(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which code packs: modules that use this run twice."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(packed, "native_packing", lambda: None)
            patch.setattr(ggml_types, "native_packing", lambda: None)
        elif packed.native_packing() is None:
            pytest.skip("the native module is not built")
        yield request.param
