"""Invented personal data for the de-identification step to find; built so that none can belong to a real person."""

from __future__ import annotations

import random
from collections.abc import Callable

SURNAMES = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨"
GIVEN = "明溪 若谷 思远 静姝 云帆 雨桐 景行 书瑶 知白 清和 怀瑾 子衿 长风 念慈".split()
WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
# GB/T 2260 has no province 17, 27, 48 or 57; the first digit alone looks like a region, as checkers expect.
AREAS = ("170101", "270203", "480512", "570307")
# Number blocks never issued to mobile customers.
BLOCKS = ("1540000", "1790000", "1630000", "1640000")


def identity_number(dice: random.Random) -> str:
    """18 digits with a valid ISO 7064 check digit and an area that does not exist."""
    birth = f"{dice.randint(1948, 2006)}{dice.randint(1, 12):02d}{dice.randint(1, 28):02d}"
    digits = dice.choice(AREAS) + birth + f"{dice.randint(1, 999):03d}"
    return digits + check_digit(digits)


def check_digit(digits: str) -> str:
    """Check character of the first 17 digits of an identity number (GB 11643)."""
    total = sum(int(digit) * weight for digit, weight in zip(digits, WEIGHTS, strict=True))
    return "10X98765432"[total % 11]


def full_name(dice: random.Random) -> str:
    """An invented full name."""
    return dice.choice(SURNAMES) + dice.choice(GIVEN)


def _mobile(dice: random.Random) -> tuple[str, str]:
    number = dice.choice(BLOCKS) + f"{dice.randint(0, 9999):04d}"
    return number, dice.choice(("我的手机号是{x}，方便的话请回个电话。", "电话{x}，可以打给我。", "联系方式：{x}。"))


def _identity(dice: random.Random) -> tuple[str, str]:
    return identity_number(dice), dice.choice(("身份证号{x}，用来挂号的。", "我的身份证号码：{x}。"))


def _email(dice: random.Random) -> tuple[str, str]:
    address = f"{dice.choice(('kangfu', 'patient', 'wenyi', 'jiankang'))}{dice.randint(10, 999)}@example.com"
    return address, dice.choice(("报告可以发到{x}。", "我的邮箱是{x}，麻烦发一份说明。"))


def _qq(dice: random.Random) -> tuple[str, str]:
    return f"99990{dice.randint(10000, 99999)}", dice.choice(("加我QQ：{x}细说。", "QQ号{x}，随时在线。"))


def _wechat(dice: random.Random) -> tuple[str, str]:
    return f"yangben_{dice.randint(1000, 9999)}", dice.choice(("微信号：{x}，请加一下。", "加我微信{x}发图片给您看。"))


def _doctor(dice: random.Random) -> tuple[str, str]:
    return full_name(dice), dice.choice(("上次是{x}医生给看的。", "主治医生：{x}，他让我再问问。"))


def _patient(dice: random.Random) -> tuple[str, str]:
    return full_name(dice), dice.choice(("我叫{x}，麻烦您了。", "患者姓名：{x}。"))


def _record(dice: random.Random) -> tuple[str, str]:
    number = f"{dice.randint(100000, 999999)}"
    place = dice.choice(("临海市虚构人民医院", "云山县样本中心医院", "青河市示例医院"))
    return number, f"在{place}住过院，住院号{{x}}，{dice.randint(1, 40)}床。"


def _birth(dice: random.Random) -> tuple[str, str]:
    day = f"{dice.randint(1950, 2005)}年{dice.randint(1, 12)}月{dice.randint(1, 28)}日"
    return day, dice.choice(("出生日期：{x}。", "我是{x}出生的。"))


def _address(dice: random.Random) -> tuple[str, str]:
    place = f"{dice.choice(('云山省青河市', '临海省望潮市'))}{dice.choice(('样本区', '示例区'))}"
    street = f"{dice.choice(('青石路', '白杨街', '听雨巷'))}{dice.randint(2, 200)}号"
    home = f"{street}{dice.randint(1, 20)}栋{dice.randint(101, 1808)}室"
    return place + home, dice.choice(("家住{x}。", "家庭地址：{x}。"))


MAKERS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "mobile": _mobile, "identity_number": _identity, "email": _email, "qq": _qq, "wechat": _wechat,
    "doctor_name": _doctor, "patient_name": _patient, "record_number": _record, "birth_date": _birth,
    "address": _address,
}  # fmt: skip


def invented(kind: str, dice: random.Random) -> tuple[str, str]:
    """(the value, the sentence that carries it) for one of MAKERS."""
    value, frame = MAKERS[kind](dice)
    return value, frame.format(x=value)
