"""Numbers with their nouns."""

from evoprune.progress import counted


def test_one_and_several() -> None:
    assert [counted(number, "survivor") for number in (0, 1, 2)] == ["0 survivors", "1 survivor", "2 survivors"]
