"""Phone numbers as people write them are masked; dates, times, amounts and scores are not."""

import pytest

from chat.anonymize import mask_phones, same


@pytest.mark.parametrize("number", [
    "0151 2345678", "(030) 901820-11", "0151/2345678", "00441632960001", "+49 (0)151 2345678",
    "(+49) 151 2345678", "+49\u00a0151\u202f2345678", "+49 800 100 000", "555‑123‑4567", "5551234",
    "06 12 34 56 78", "06.12.34.56.78", "06-12 34 56 78", "01.12.30.45.60", "+33 6 12 34 56 78",
    "12 34 56 78", "612.345.678", "48 501 234 567", "0151 12-11-20", "4111 1111 1111 1111",
    "0151 2345678 / 0171 9876543",
])  # fmt: skip
def test_a_number(number: str) -> None:
    assert mask_phones(same(f"call {number}!")) == "call <phone>!"


@pytest.mark.parametrize(
    "before", ["Tel:", "tel.", "(", "wa.me/", "?phone=", "电话", "Person 1 ", "10:30 "]
)
@pytest.mark.parametrize("after", ["/", ")", "로 전화", ", 2 of 3"])
def test_what_stands_around_a_number(before: str, after: str) -> None:
    assert mask_phones(f"{before}491512345678{after}") == f"{before}<phone>{after}"


@pytest.mark.parametrize("text", [
    "2024-01-02 10:00", "2024-01-02T10:00:00Z", "24.12.2024 18:00-20:00", "12/31/20, 9:15 PM",
    "01.02.24-05.02.24", "01.02.2024 - 05.02.2024", "01.02.-05.02.2024", "2024. 1. 2. 10:00",
    "on 2021-05-01 and 12.11.2020 at 19:30", "season 2023/2024, 2023-2024", "5 01.02.2024",
    "score 3-2 1-0 4-1 2-2", "21-19 18-21 21-15", "room 12-14, 3.50", "1000 of 250000",
    "10.000.000", "1.250.000,50", "1 250 000", "250 000 000", "https://example.org/item/12345678",
])  # fmt: skip
def test_no_number_of_a_phone(text: str) -> None:
    assert mask_phones(text) == text
