"""Stored types, spelled out; and that a declaration is all a new dataset needs."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import UsageError
from etl.model import ArchiveLayout, Column, Dataset, Endpoint, PageTier
from etl.registry import DATASETS
from etl.schema import array, arrow_schema, booleans, empty, integers, mask, numbers

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


VALUES = st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=40)


@given(st.lists(st.none() | st.text(), max_size=40), VALUES, st.lists(st.none() | st.floats(allow_nan=False), max_size=40))
def test_python_values_come_back_from_an_array(texts, whole, floats):
    for values, type in ((texts, pa.string()), (whole, pa.int64()), (whole, TIME), (floats, FLOAT)):
        made = array(values, type)
        made.validate(full=True)
        assert made.type == type
        assert made.equals(pa.array(values, type))


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), max_size=4), st.integers(0, 20))
def test_whole_numbers_of_a_column_in_any_pieces(pieces, skipped):
    column = pa.chunked_array([pa.array(piece, pa.int64()).cast(TIME) for piece in pieces], TIME).slice(skipped)
    assert integers(column).tolist() == [value for piece in pieces for value in piece][skipped:]


@given(st.lists(st.lists(st.booleans(), max_size=20), max_size=4), st.integers(0, 20))
def test_truth_values_of_a_column_in_any_pieces(pieces, skipped):
    column = pa.chunked_array([pa.array(piece, pa.bool_()) for piece in pieces], pa.bool_()).slice(skipped)
    assert booleans(column).tolist() == [value for piece in pieces for value in piece][skipped:]


@given(st.lists(st.booleans(), max_size=40))
def test_a_mask_says_what_it_is_made_of(values):
    assert mask(np.array(values, bool)).to_pylist() == values


def test_numbers_share_the_memory_of_their_values():
    values = np.array([1.5, -2.0])
    made = numbers(values, FLOAT)
    assert made.to_pylist() == [1.5, -2.0]
    assert made.buffers()[1].address == values.ctypes.data


@pytest.mark.parametrize("dataset", SCHEMAS)
def test_an_empty_table_has_the_schema(dataset):
    assert empty(dataset).equals(pa.table([[]] * len(SCHEMAS[dataset]), schema=SCHEMAS[dataset]))
