"""The shipped price book, read once; no user's own file."""

from pathlib import Path

import pytest

from farthing.ledger.prices import PriceBook, load_price_book


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    empty: Path = tmp_path_factory.mktemp("prices") / "prices.toml"
    empty.write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARTHING_PRICES", str(empty))
        return load_price_book()
