"""Template-made general text: small sums, calendar, units, comparisons and plain talk.

Nothing here was written by hand for a reader: it is exercise material that gives a tiny base model enough plain,
correct Chinese to learn from. The hand-written general text is in data/general_*.jsonl.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from qilin_lib.sample.wording import rng

NAMES = "小林 小周 小许 小陶 小叶 小魏 小方 小蒋 阿明 阿珍 阿海 阿兰".split()
THINGS = "苹果 橘子 铅笔 信封 馒头 鸡蛋 贝壳 纽扣 书签 灯泡 花盆 茶杯 算盘 核桃 石榴 饺子".split()
PLACES = "图书馆 菜市场 火车站 博物馆 体育场 植物园 邮局 码头 电影院 文具店 水族馆 老茶馆".split()
DAYS = "一二三四五六日"
DIGITS = "零一二三四五六七八九"
MONTHS = {31: (1, 3, 5, 7, 8, 10, 12), 30: (4, 6, 9, 11)}
SEASONS = {"春天": (3, 4, 5), "夏天": (6, 7, 8), "秋天": (9, 10, 11), "冬天": (12, 1, 2)}
BIGGER = (
    "大象 兔子 重", "高铁 自行车 快", "长江 小溪 长", "太阳 月亮 大", "西瓜 樱桃 大", "钢板 木板 硬", "冬夜 夏夜 长",
    "珠峰 泰山 高", "中午 清晨 热", "砖头 海绵 硬", "飞机 轮船 快", "湖泊 水洼 大", "爷爷 孙子 老", "竹子 小草 高",
)  # fmt: skip
UNITS = (
    ("米", "厘米", 100), ("千米", "米", 1000), ("千克", "克", 1000), ("小时", "分钟", 60), ("分钟", "秒", 60),
    ("天", "小时", 24), ("升", "毫升", 1000), ("公顷", "平方米", 10000), ("吨", "千克", 1000), ("元", "角", 10),
    ("年", "个月", 12), ("打", "个", 12),
)  # fmt: skip
OPENINGS = (
    "今天练习几件小事。", "算一算，看一看。", "随手记下几条。", "下面几句都可以自己验证。", "先看练习本的这一页。",
    "", "", "",
)  # fmt: skip

Drill = tuple[str, str, str]


def numeral(number: int) -> str:
    """Chinese numeral of 0 to 999."""
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10)
    words = DIGITS[hundreds] + "百" if hundreds else ""
    if tens:
        words += ("" if tens == 1 and not hundreds else DIGITS[tens]) + "十"
    elif hundreds and ones:
        words += "零"
    return words + (DIGITS[ones] if ones or not words else "")


def _sum(dice: random.Random) -> Drill:
    one, two, name, thing = dice.randint(3, 60), dice.randint(3, 60), dice.choice(NAMES), dice.choice(THINGS)
    question = f"{name}原来有{numeral(one)}个{thing}，又得到{numeral(two)}个，现在一共有多少个？"
    answer = f"{numeral(one)}加{numeral(two)}等于{numeral(one + two)}，所以一共有{one + two}个{thing}。"
    return question, answer, f"{name}先有{one}个{thing}，后来添了{two}个，合起来是{numeral(one + two)}个。"


def _take(dice: random.Random) -> Drill:
    one, two, name, thing = dice.randint(40, 99), dice.randint(3, 38), dice.choice(NAMES), dice.choice(THINGS)
    question = f"筐里有{one}个{thing}，{name}拿走了{two}个，还剩几个？"
    answer = f"用减法：{one}减{two}得{one - two}，筐里还剩{one - two}个{thing}。"
    return question, answer, f"一筐{thing}共{numeral(one)}个，被{name}取走{numeral(two)}个，余下{one - two}个。"


def _share(dice: random.Random) -> Drill:
    people, each, thing = dice.randint(3, 9), dice.randint(3, 12), dice.choice(THINGS)
    total = people * each
    question = f"把{total}个{thing}平均分给{people}个人，每人分到几个？"
    answer = f"{total}除以{people}等于{each}，每人分到{numeral(each)}个。"
    return question, answer, f"{numeral(people)}个人平分{total}个{thing}，每人正好{each}个，不多也不少。"


def _price(dice: random.Random) -> Drill:
    price, count, thing, name = dice.randint(2, 15), dice.randint(2, 9), dice.choice(THINGS), dice.choice(NAMES)
    paid = price * count + dice.randint(1, 30)
    question = f"一个{thing}卖{price}元，{name}买{count}个，付了{paid}元，应找回多少？"
    back = paid - price * count
    answer = f"{count}个要{price * count}元，{paid}减{price * count}等于{back}，应找回{back}元。"
    bought = f"{name}在店里挑了{count}个{thing}，单价{price}元，合计{numeral(price * count)}元"
    told = f"{bought}，递上{paid}元，店主找回{paid - price * count}元。"
    return question, answer, told


def _unit(dice: random.Random) -> Drill:
    large, small, factor = dice.choice(UNITS)
    count = dice.randint(2, 12)
    question = f"{count}{large}等于多少{small}？"
    answer = f"1{large}是{factor}{small}，所以{count}{large}是{count * factor}{small}。"
    told = f"换算单位时记住一{large}合{factor}{small}，那么{numeral(count)}{large}就是{count * factor}{small}。"
    return question, answer, told


def _week(dice: random.Random) -> Drill:
    start, after = dice.randrange(7), dice.randint(2, 20)
    end = DAYS[(start + after) % 7]
    question = f"今天是星期{DAYS[start]}，再过{after}天是星期几？"
    answer = f"一周有七天，{after}除以7余{after % 7}，从星期{DAYS[start]}往后数{after % 7}天，是星期{end}。"
    return question, answer, f"从星期{DAYS[start]}数起，{numeral(after)}天以后落在星期{end}。"


def _month(dice: random.Random) -> Drill:
    days = dice.choice((30, 31))
    month = dice.choice(MONTHS[days])
    season = next(name for name, months in SEASONS.items() if month in months)
    question = f"公历{month}月有多少天，属于哪个季节？"
    answer = f"{month}月有{days}天，在北半球的温带地区通常算作{season}。"
    return question, answer, f"公历{numeral(month)}月共{days}天，按月份算，北方人把它归入{season}。"


def _clock(dice: random.Random) -> Drill:
    hour, minute, spent = dice.randint(6, 20), dice.choice((0, 10, 15, 20, 30, 45)), dice.randint(20, 150)
    total = hour * 60 + minute + spent
    name, place = dice.choice(NAMES), dice.choice(PLACES)
    end = f"{total // 60}点{total % 60:02d}分"
    question = f"{name}{hour}点{minute:02d}分出发去{place}，路上用了{spent}分钟，几点到？"
    answer = f"{hour}点{minute:02d}分加上{spent}分钟是{end}，所以{end}到达{place}。"
    return question, answer, f"{name}在{hour}点{minute:02d}分出门，走了{spent}分钟，到{place}时是{end}。"


def _travel(dice: random.Random) -> Drill:
    speed, hours, place = dice.choice((5, 12, 15, 40, 60, 80)), dice.randint(2, 6), dice.choice(PLACES)
    question = f"每小时走{speed}千米，{hours}小时能走多少千米？"
    answer = f"路程等于速度乘时间，{speed}乘{hours}等于{speed * hours}，能走{speed * hours}千米。"
    return question, answer, f"去城外的{place}要{hours}小时，车速每小时{speed}千米，全程{numeral(speed * hours)}千米。"


def _area(dice: random.Random) -> Drill:
    long, wide = dice.randint(6, 25), dice.randint(2, 12)
    thing = dice.choice(("操场", "菜园", "地毯", "黑板", "鱼塘", "展板"))
    question = f"一块长方形{thing}长{long}米、宽{wide}米，面积和周长各是多少？"
    around = 2 * (long + wide)
    answer = f"面积是{long}乘{wide}，等于{long * wide}平方米；周长是{long + wide}的两倍，等于{around}米。"
    return question, answer, f"{thing}长{long}米，宽{wide}米，铺满要{long * wide}平方米，绕一圈是{around}米。"


def _warm(dice: random.Random) -> Drill:
    low, rise, place = dice.randint(-8, 15), dice.randint(4, 14), dice.choice(PLACES)
    question = f"清晨气温{low}摄氏度，中午升高了{rise}度，中午是多少摄氏度？"
    answer = f"{low}加{rise}等于{low + rise}，中午气温是{low + rise}摄氏度。"
    return question, answer, f"{place}门口的温度计清早指着{low}摄氏度，午后升了{rise}度，停在{low + rise}摄氏度。"


def _order(dice: random.Random) -> Drill:
    numbers = dice.sample(range(10, 99), 4)
    listed, ranked = "、".join(map(str, numbers)), "、".join(map(str, sorted(numbers)))
    question = f"把{listed}从小到大排列。"
    answer = f"从小到大依次是{ranked}，最大的是{max(numbers)}，最小的是{min(numbers)}。"
    return question, answer, f"{listed}这四个数里，{numeral(max(numbers))}最大，{numeral(min(numbers))}最小。"


def _parity(dice: random.Random) -> Drill:
    number, by = dice.randint(20, 300), dice.choice((3, 5, 7))
    kind = "偶数" if number % 2 == 0 else "奇数"
    whole = "能" if number % by == 0 else "不能"
    question = f"{number}是奇数还是偶数，能被{by}整除吗？"
    answer = f"{number}的个位是{number % 10}，是{kind}；{number}除以{by}余{number % by}，{whole}被{by}整除。"
    return question, answer, f"{numeral(number)}是{kind}，除以{by}余{number % by}，因此{whole}被{by}整除。"


def _compare(dice: random.Random) -> Drill:
    large, small, word = dice.choice(BIGGER).split()
    name = dice.choice(NAMES)
    question = f"{large}和{small}相比，哪一个更{word}？"
    answer = f"一般来说，{large}比{small}{word}，因此答案是{large}。"
    return question, answer, f"{name}问{large}和{small}谁更{word}，大家都说是{large}。"


def _age(dice: random.Random) -> Drill:
    young, gap, name = dice.randint(5, 15), dice.randint(20, 35), dice.choice(NAMES)
    later = dice.randint(2, 10)
    question = f"{name}今年{young}岁，妈妈比孩子大{gap}岁，{later}年后妈妈多少岁？"
    answer = f"妈妈今年{young + gap}岁，再加{later}，{later}年后是{young + gap + later}岁。"
    told = f"{name}{numeral(young)}岁，妈妈{numeral(young + gap)}岁，过{later}年妈妈就{young + gap + later}岁了。"
    return question, answer, told


DRILLS: tuple[Callable[[random.Random], Drill], ...] = (
    _sum, _take, _share, _price, _unit, _week, _month, _clock, _travel, _area, _warm, _order, _parity, _compare, _age,
)  # fmt: skip


def passages(count: int, seed: int) -> list[str]:
    """`count` passages of three or four unlike exercises; no sentence comes twice."""
    dice = rng(seed, "drill:passages")
    seen: set[str] = set()
    made: list[str] = []
    while len(made) < count:
        told = [drill(dice)[2] for drill in dice.sample(DRILLS, dice.randint(3, 4))]
        fresh = [text for text in told if text not in seen]
        seen.update(fresh)
        if len(fresh) > 1:
            made.append(dice.choice(OPENINGS) + "".join(fresh))
    return made


def questions(count: int, seed: int) -> list[tuple[str, str]]:
    """`count` different exercises with worked answers."""
    dice = rng(seed, "drill:questions")
    made: dict[str, str] = {}
    while len(made) < count:
        question, answer, _ = DRILLS[len(made) % len(DRILLS)](dice)
        made.setdefault(question, answer)
    return list(made.items())


def chats(count: int, seed: int) -> list[list[str]]:
    """`count` short talks: a greeting and two exercises."""
    dice = rng(seed, "drill:chats")
    made = []
    for _ in range(count):
        one, two = (drill(dice) for drill in dice.sample(DRILLS, 2))
        opening = dice.choice(("你好，考你一道题：", "帮我算一下，", "有个小问题，", "请教一下，", "来做道题吧，"))
        follow = dice.choice(("很好，再来一题：", "明白了。那么", "谢谢，还有一道：", "换一个，", "接着问，"))
        made.append([opening + one[0], dice.choice(("好的。", "没问题。", "")) + one[1], follow + two[0], two[1]])
    return made
