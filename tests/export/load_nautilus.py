"""Continues the page's Python in nautilus' environment: what its catalog holds, and which bars its engine gives when."""

import json

from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig
from nautilus_trader.model.currencies import USDT
from nautilus_trader.model.enums import AccountType, OmsType
from nautilus_trader.model.identifiers import Venue
from nautilus_trader.model.objects import Money
from nautilus_trader.trading.strategy import Strategy


class Watch(Strategy):
    def on_start(self):
        self.seen = []
        self.subscribe_bars(bars[0].bar_type)

    def on_bar(self, bar):
        self.seen.append((self.clock.timestamp_ns(), str(bar.close)))


engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
engine.add_venue(
    Venue("BINANCE"), OmsType.NETTING, AccountType.MARGIN, base_currency=USDT, starting_balances=[Money(1_000_000, USDT)]
)
for one in instruments:
    engine.add_instrument(one)
engine.add_data(bars)
watch = Watch()
engine.add_strategy(watch)
engine.run()


def told(bar):
    return [bar.ts_event, bar.ts_init, *(str(value) for value in (bar.open, bar.high, bar.low, bar.close, bar.volume))]


rules = {
    str(one.id): [
        type(one).__name__,
        str(one.raw_symbol),
        str(one.quote_currency),
        one.price_precision,
        one.size_precision,
        float(one.price_increment),
        float(one.size_increment),
        getattr(one, "expiration_ns", None),
    ]
    for one in catalog.instruments()
}
everything = {}
for bar in catalog.bars():
    everything.setdefault(str(bar.bar_type), []).append(told(bar))
paid = {}
for identity in rules:  # one by one: of several nautilus gives all rates the id of the first one
    found = catalog.query(FundingRateUpdate, identifiers=[identity])
    paid[identity] = [[rate.ts_event, rate.ts_init, str(rate.rate)] for rate in found if str(rate.instrument_id) == identity]
print(json.dumps({"rules": rules, "bars": everything, "paid": paid, "seen": watch.seen, "asked": len(rates)}))
