"""What Postgres quotes in an error stays there: our errors' texts go to logs."""

import pytest

from headway_core.database import Database
from headway_core.errors import StoreUnavailable

SECRET = "swordfish"


@pytest.mark.parametrize("code", ["53200", "55P03", "57014", "08006"])
async def test_the_detail_of_an_error_is_not_repeated(database_url: str, code: str) -> None:
    database = await Database.connect(database_url, name="test", size=1)
    raising = f"RAISE EXCEPTION 'refused' USING ERRCODE = '{code}', DETAIL = '{SECRET}'"
    try:
        with pytest.raises(StoreUnavailable) as caught:
            await database.execute(f"DO $$ BEGIN {raising}; END $$")
    finally:
        await database.close()
    assert "refused" in str(caught.value)
    assert SECRET not in str(caught.value)
