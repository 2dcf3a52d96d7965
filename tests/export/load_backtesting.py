"""Continues the page's Python in the environment of backtesting.py: what it read, and what one coin earns that is held."""

import json

from backtesting import Backtest, Strategy


class Hold(Strategy):
    def init(self):
        pass

    def next(self):
        if not self.position:
            self.buy(size=1)


result = Backtest(bars, Hold, cash=10_000_000, finalize_trades=True).run()
rows = [[str(time), *row] for time, row in zip(bars.index, bars.to_numpy().tolist(), strict=True)]
dtypes = [str(bars.index.dtype)[:10], *map(str, bars.dtypes)]
print(json.dumps({"columns": list(bars.columns), "dtypes": dtypes, "rows": rows, "equity": result["Equity Final [$]"]}))
