"""Stored types, spelled out; and that a declaration is all a new dataset needs."""

import pyarrow as pa
import pytest

from etl.errors import UsageError
from etl.model import ArchiveLayout, Column, Dataset, Endpoint, PageTier
from etl.registry import DATASETS
from etl.schema import arrow_schema

TIME, FLOAT = pa.timestamp("ms"), pa.float64()


def required(name: str, type: pa.DataType) -> pa.Field:
    return pa.field(name, type, nullable=False)


PRICE_BAR = pa.schema(
    [
        required("open_time", TIME),
        required("open", FLOAT),
        required("high", FLOAT),
        required("low", FLOAT),
        required("close", FLOAT),
        required("close_time", TIME),
    ]
)
SCHEMAS = {
    "klines": pa.schema(
        [
            required("open_time", TIME),
            required("open", FLOAT),
            required("high", FLOAT),
            required("low", FLOAT),
            required("close", FLOAT),
            required("volume", FLOAT),
            required("close_time", TIME),
            required("quote_volume", FLOAT),
            required("count", pa.int64()),
            required("taker_buy_volume", FLOAT),
            required("taker_buy_quote_volume", FLOAT),
        ]
    ),
    "funding": pa.schema(
        [
            required("funding_time", TIME),
            required("funding_rate", FLOAT),
            pa.field("mark_price", FLOAT),
            pa.field("rate_type", pa.string()),
        ]
    ),
    "mark_klines": PRICE_BAR,
    "index_klines": PRICE_BAR,
    "premium_klines": PRICE_BAR,
}


def test_every_dataset_is_tested():
    assert list(SCHEMAS) == list(DATASETS)


@pytest.mark.parametrize("dataset", SCHEMAS)
def test_schemas(dataset):
    assert arrow_schema(dataset).equals(SCHEMAS[dataset])


def test_an_unknown_dataset_is_refused():
    with pytest.raises(UsageError, match="unknown dataset 'trades'"):
        arrow_schema("trades")


def test_a_declaration_is_all_that_a_new_dataset_needs():
    DATASETS["open_interest"] = Dataset(
        name="open_interest",
        columns=(Column("time", "time"), Column("open_interest", "float"), Column("note", "text", nullable=True)),
        key=("time",),
        wire=("timestamp", "sumOpenInterest", "note"),
        endpoints={"um": Endpoint("/futures/data/openInterestHist", (PageTier(500, 1),))},
        archive=ArchiveLayout("openInterest", ("time", "open_interest", "note")),
        has_interval=False,
    )
    try:
        schema = arrow_schema("open_interest")
    finally:
        del DATASETS["open_interest"]
    assert schema.equals(pa.schema([required("time", TIME), required("open_interest", FLOAT), pa.field("note", pa.string())]))
