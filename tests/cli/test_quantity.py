"""Numbers as people write them."""

import pytest

from whimbrel.cli.quantity import bytes_text, count_text, parse_quantities, parse_quantity
from whimbrel.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096), ("32k", 32768), ("32K", 32768), ("1.5G", 3 << 29), ("1.5 GiB", 3 << 29), (".5m", 1 << 19),
        ("1_000", 1000), ("0", 0), ("2T", 2 << 40),
    ],
)  # fmt: skip
def test_numbers(text: str, value: int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "k", "-1", "1e3", "3x", "1..5", "12 3", "nan"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(InvalidParameter, match="write 4096, 32k"):
        parse_quantity(text)


def test_lists() -> None:
    assert parse_quantities("512, 2k,8k") == [512, 2048, 8192]
    with pytest.raises(InvalidParameter):
        parse_quantities("512,")


def test_for_people() -> None:
    sizes = [bytes_text(size) for size in (0, 999, 98_362_432, 1_073_741_824, 16e9, 1.2e12)]
    assert sizes == ["0 B", "999 B", "98.4 MB", "1.07 GB", "16 GB", "1,200 GB"]
    assert [count_text(count) for count in (8192, 134_515_008, 8_185_253_888)] == ["8,192", "135 M", "8.19 G"]
