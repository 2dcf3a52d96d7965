-- universe("at"): the symbols whose life span holds that time, from the first bar (or the listing) to the last one (or delivery).
-- A contract of which neither is known is left out: it may not have begun then.
CREATE OR REPLACE MACRO universe("at", market := 'um') AS TABLE
SELECT s.*
FROM $symbols AS s
WHERE s.market = market
  AND coalesce(s.first_time, s.onboard_time) <= "at"::TIMESTAMP
  AND coalesce(s.last_time, s.delivery_time, "at"::TIMESTAMP) >= "at"::TIMESTAMP;
