"""Names of units -> what they are in hours, kWh, tonnes and FLOP; and the words for money."""

from decimal import Decimal

_DAY = Decimal(24)
HOURS = {
    "second": 1 / Decimal(3600), "seconds": 1 / Decimal(3600), "secs": 1 / Decimal(3600), "sec": 1 / Decimal(3600),
    "minute": 1 / Decimal(60), "minutes": 1 / Decimal(60), "min": 1 / Decimal(60), "mins": 1 / Decimal(60),
    "hour": Decimal(1), "hours": Decimal(1), "hr": Decimal(1), "hrs": Decimal(1), "h": Decimal(1),
    "day": _DAY, "days": _DAY, "d": _DAY, "night": Decimal(12), "weekend": 2 * _DAY,
    "week": 7 * _DAY, "weeks": 7 * _DAY, "wk": 7 * _DAY, "wks": 7 * _DAY, "fortnight": 14 * _DAY,
    "month": Decimal("30.4375") * _DAY, "months": Decimal("30.4375") * _DAY,
    "year": Decimal("365.25") * _DAY, "years": Decimal("365.25") * _DAY, "yr": Decimal("365.25") * _DAY,
    "quarter": Decimal("91.3125") * _DAY,
}  # fmt: skip
ENERGY_KWH = {
    "kwh": Decimal(1), "mwh": Decimal(1000), "gwh": Decimal("1e6"), "twh": Decimal("1e9"),
    "kilowatthour": Decimal(1), "megawatthour": Decimal(1000), "gigawatthour": Decimal("1e6"), "terawatthour": Decimal("1e9"),
    "mj": 1 / Decimal("3.6"), "gj": 1000 / Decimal("3.6"), "tj": Decimal("1e6") / Decimal("3.6"),
    "megajoule": 1 / Decimal("3.6"), "gigajoule": 1000 / Decimal("3.6"), "terajoule": Decimal("1e6") / Decimal("3.6"),
}  # fmt: skip
_POUND = Decimal("0.00045359237")
MASS_TONNES = {
    "kg": Decimal("0.001"), "kilogram": Decimal("0.001"), "kilograms": Decimal("0.001"),
    "t": Decimal(1), "ton": Decimal(1), "tons": Decimal(1), "tonne": Decimal(1), "tonnes": Decimal(1),
    "metric ton": Decimal(1), "metric tons": Decimal(1), "lb": _POUND, "lbs": _POUND, "pound": _POUND, "pounds": _POUND,
    "kt": Decimal(1000), "kiloton": Decimal(1000), "kilotons": Decimal(1000), "kilotonne": Decimal(1000),
    "kilotonnes": Decimal(1000),
}  # fmt: skip
FLOP_PREFIXES = {"": "1", "g": "1e9", "t": "1e12", "p": "1e15", "e": "1e18", "z": "1e21", "y": "1e24"}
MONEY_WORDS = (
    r"(?:us|u\.s\.|american|canadian|australian|singapore|hong kong)?[ -]?(?:dollars?|bucks)|"
    r"usd|us\$|(?:us )?cents?|euros?|eur|rmb|cny|"
    r"(?:chinese )?yuan|renminbi|gbp|pounds?(?: sterling)?|sterling|(?:japanese )?yen|"
    r"(?:indian )?rupees?|(?:korean )?won|(?:swiss )?francs?"
)
