"""A card payment as a processor passes it on: 300 fields, some 11.6 kB of JSON, each of them parsed and checked.

A line of FIELDS is a group: its name, then `field:kind` for each of its fields. Kinds: `i<low>-<high>` a whole number,
`f<high>` a number, `b` a truth, `t` a time (ISO 8601), `c<a|b|c>` one of these texts, `s<n>` a text of some n
characters, `h<n>` n hexadecimal digits. With `?` behind it the value may be missing, and is in one event of ten.
"""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

import skyriver as sr

FIELDS = """
message type:c0100|0120|0200|0420 version:i1-9 trace:i0-999999 reference:h12 sent:t received:t priority:i0-9 \
source:cpos|ecommerce|atm|moto retransmission:b region:cEMEA|APAC|AMER|LATAM checksum:h64 correlation:h64 route:s44 \
hop:i0-12 batch:h16
card scheme:cvisa|mastercard|amex|discover|jcb product:s24 bin:i400000-599999 last_four:i0-9999 token:h64 expires:t \
issued:t sequence:i0-99 funding:ccredit|debit|prepaid|charge level:cconsumer|business|corporate \
country:cDE|FR|NL|BE|IT|ES|US|GB currency:cEUR|USD|GBP|CHF contactless:b virtual:b status:cactive|blocked|renewed
holder reference:h40 segment:s20 since:t age_band:c18-25|26-35|36-50|51-65|66+ language:cde|fr|nl|en|it|es \
income_band:i0-9? city:s20 postcode:s6 country:cDE|FR|NL|BE|IT|ES|US|GB email_domain:s24 email_age_days:i0-6000? \
phone_prefix:i1-999 phone_age_days:i0-6000? addresses:i1-9 risk_class:cA|B|C|D
account reference:h40 type:ccurrent|savings|credit opened:t balance:f20000 limit:f10000 available:f10000 \
overdraft:f2000 utilisation:f1 arrears_days:i0-90 payments_30d:i0-400 spent_30d:f9000 largest_90d:f4000 \
declined_30d:i0-20 chargebacks_365d:i0-5 status:copen|frozen|closing
merchant reference:h40 name:s80 legal_name:s80 category:i1000-9999 category_name:s60 street:s44 city:s20 postcode:s6 \
country:cDE|FR|NL|BE|IT|ES|US|GB since:t website:s150 average_ticket:f300 payments_30d:i0-90000 chargeback_rate:f1 \
refund_rate:f1
terminal_data serial:h16 model:s24 firmware:s12 vendor:s20 installed:t serviced:t \
capability:cchip|stripe|contactless|manual attended:b online:b latitude:f90 longitude:f180 altitude:f900? \
signal:i0-100 uptime_hours:i0-9000 payments_today:i0-900
acquirer reference:h12 name:s60 country:cDE|FR|NL|BE|IT|ES|US|GB institution:i100000-999999 settlement:t \
batch:i1-9999 interchange:f3 fee:f2 surcharge:f2 cashback:f50 tip:f20 tax:f90 net:f900 gross:f999 reconciliation:h16
issuer reference:h12 name:s60 country:cDE|FR|NL|BE|IT|ES|US|GB institution:i100000-999999 stand_in:b \
response:c00|05|51|54|91 response_ms:i1-3000 advice:h8 score:f1 score_version:s8 velocity_1h:i0-40 \
velocity_24h:i0-90 velocity_7d:i0-300 rules_hit:i0-30 rules:s200
authentication method:cchip_pin|signature|cdcvm|three_ds|none version:c2.1.0|2.2.0|2.3.1 transaction:h48 server:h48 \
directory:h48 status:cY|N|A|U|C|R eci:c00|01|02|05|06|07 cavv:h40 challenged:b challenge_ms:i0-90000? \
exemption:cnone|low_value|recurring|tra attempts:i0-5 requested:t completed:t indicator:i0-9
chip application:h16 cryptogram:h16 cryptogram_type:cARQC|TC|AAC counter:i0-65535 unpredictable:h8 \
interchange_profile:h4 verification:h10 terminal_verification:h10 issuer_data:h64 file_name:h14 label:s16 \
currency_code:i1-999 country_code:i1-999 date:t sequence:i0-99
device fingerprint:h64 type:cphone|tablet|desktop|watch|tv brand:s10 model:s24 system:s16 system_version:s8 \
screen_width:i200-5000 screen_height:i200-5000 colour_depth:i8-48 memory_gb:i1-128 cores:i1-32 battery:f1? \
charging:b rooted:b emulator:b
browser agent:s240 name:s10 version:s12 language:s5 languages:s44 timezone_minutes:i0-840 cookies:b local_storage:b \
java:b do_not_track:b plugins:i0-30 fonts_hash:h64 canvas_hash:h64 webgl_hash:h64 audio_hash:h64
network address:s20 version:i4-6 operator:s34 system_number:i1-400000 type:cmobile|fixed|hosting|satellite \
country:cDE|FR|NL|BE|IT|ES|US|GB city:s20 latitude:f90 longitude:f180 accuracy_km:i1-500 proxy:b tor:b vpn:b \
round_trip_ms:i1-900 reputation:f1
session reference:h64 started:t pages:i1-200 seconds:i1-9000 clicks:i0-900 keystrokes:i0-5000 pasted_fields:i0-20 \
typing_ms:f400 mouse_speed:f3000 scrolls:i0-600 tab_switches:i0-60 referrer:s220 campaign:s32? landing:s150 \
returning:b
billing name:s34 street:s60 house:s4 city:s20 postcode:s6 state:s12? country:cDE|FR|NL|BE|IT|ES|US|GB phone:s13 \
verified:b avs_street:cmatch|partial|none avs_postcode:cmatch|partial|none changed:t changes_90d:i0-9 residential:b \
distance_km:f9000
shipping name:s34 street:s60 house:s4 city:s20 postcode:s6 state:s12? country:cDE|FR|NL|BE|IT|ES|US|GB phone:s13 \
method:cstandard|express|pickup|digital carrier:s12 promised:t cost:f40 same_as_billing:b locker:b distance_km:f9000
order reference:h20 placed:t items:i1-60 total:f999 discount:f200 voucher:s12? gift:b express:b first_sku:h12 \
first_name:s80 first_category:s32 first_price:f900 second_sku:h12? second_name:s80? second_price:f900?
loyalty reference:h16? tier:cnone|bronze|silver|gold points:i0-90000 points_used:i0-9000 member_since:t \
visits_90d:i0-90 favourite_store:s32? offers_seen:i0-90 offers_used:i0-20 referrals:i0-30 birthday_month:i1-12? \
newsletter:b app_version:s8 push_enabled:b satisfaction:f1?
clearing reference:h40 file:h16 cycle:i1-9 presented:t currency:cEUR|USD|GBP|CHF rate:f2 rate_source:s10 rate_time:t \
amount:f999 fee_scheme:f1 fee_processor:f1 fee_issuer:f1 level_three:b partial:b network:cvisanet|banknet|sepa
history last_payment:t last_amount:f900 last_terminal:i0-99999 last_country:cDE|FR|NL|BE|IT|ES|US|GB \
gap_seconds:i0-900000 distance_km:f9000 speed_kmh:f900 countries_30d:i1-20 merchants_30d:i1-200 categories_30d:i1-60 \
night_share:f1 online_share:f1 weekend_share:f1 disputes:i0-9 notes:s510?
"""
FIELD_COUNT, EVENT_BYTES = 300, 11_600
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "frost", "grove", "harbor", "iris", "jade", "kestrel", "linden")


def _declared() -> list[tuple[str, str, bool]]:
    """Name, kind and whether the value may be missing."""
    found = []
    for line in FIELDS.strip().splitlines():
        group, *fields = line.split(" ")
        for field in fields:
            name, _, kind = field.partition(":")
            found.append((f"{group}_{name}", kind.rstrip("?"), kind.endswith("?")))
    return found


def full_event() -> type[sr.Event]:
    """The five fields of a payment and 295 more."""
    hints: dict[str, Any] = {"payment": int, "at": sr.Time, "customer": int, "terminal": int, "amount": float}
    options: dict[str, Any] = {"amount": sr.field(ge=0, le=1_000_000)}
    types: dict[str, Any] = {"i": int, "f": float, "b": bool, "t": sr.Time}
    for name, kind, nullable in _declared()[: FIELD_COUNT - len(hints)]:
        hint = types.get(kind[0], str)
        hints[name] = hint | None if nullable else hint
        rule = kind[1:]
        match kind[0]:
            case "i":
                low, high = rule.split("-")
                options[name] = sr.field(ge=int(low), le=int(high))
            case "f":
                options[name] = sr.field(ge=0, le=float(rule))
            case "c":
                options[name] = sr.field(one_of=tuple(rule.split("|")))
            case "s" | "h":
                options[name] = sr.field(max_length=2 * int(rule))
    return type("FullPayment", (sr.Event,), {"__annotations__": hints, **options})


def _value(kind: str, luck: random.Random) -> object:
    rule = kind[1:]
    match kind[0]:
        case "i":
            low, high = map(int, rule.split("-"))
            return luck.randint(low, high)
        case "f":
            return round(luck.random() * float(rule), 4)
        case "b":
            return luck.random() < 0.5
        case "t":
            at = datetime(2018, 1, 1, tzinfo=UTC) + timedelta(milliseconds=luck.randrange(10**11))
            return at.isoformat(timespec="milliseconds")
        case "c":
            return luck.choice(rule.split("|"))
        case "h":
            return f"{luck.getrandbits(4 * int(rule)):0{int(rule)}x}"
    text = ""
    while len(text) < int(rule):
        text += luck.choice(_WORDS).title() + " "
    return text[: int(rule)].strip()


def tails(count: int, seed: int = 0) -> list[str]:
    """What follows the first five fields in the JSON of an event, `count` different ones."""
    luck = random.Random(seed)
    fields = _declared()[: FIELD_COUNT - 5]
    found = []
    for _ in range(count):
        values = {n: None if may and luck.random() < 0.1 else _value(kind, luck) for n, kind, may in fields}
        found.append("," + msgspec.json.encode(values).decode()[1:])
    return found


def write_templates(path: Path, url: str, found: list[str], keys: int) -> None:
    """For `_load.py schedule`."""
    path.write_text(json.dumps({"url": url, "tails": found, "keys": keys}))
