"""Continues the page's Python in the environment of vectorbt: what it read, and the return of holding the coin."""

import json

import vectorbt as vbt

held = vbt.Portfolio.from_holding(bars["Close"], freq="1h")
frame = bars.assign(**{"Close time": bars["Close time"].astype("int64")})
times = bars.index.astype("int64").tolist()
print(
    json.dumps(
        {
            "index": [bars.index.name, str(bars.index.dtype)],
            "dtypes": {name: str(dtype) for name, dtype in bars.dtypes.items()},
            "rows": [
                [time, *row] for time, row in zip(times, zip(*(frame[c].tolist() for c in frame), strict=True), strict=True)
            ],
            "return": float(held.total_return()),
        }
    )
)
