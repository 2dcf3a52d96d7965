"""Historical market data of Binance futures: extract, verify, store as Parquet, query in SQL."""

__version__ = "0.1.0"
