"""English names of CMExam's annotation values (Liu et al. 2023, arXiv 2306.03030, section 3.3) for tables and figures.

Departments are those of China's catalogue of clinical departments that CMExam annotates by; the wording is ours. A
value that is not listed has no English name and is shown by its number instead: figures hold no Chinese text, because
matplotlib draws boxes where no Chinese font is installed.
"""

from __future__ import annotations

COLUMNS = {
    "department": "clinical department",
    "disease_group": "disease group",
    "competency": "area of competency",
    "discipline": "medical discipline",
    "difficulty": "difficulty level",
}
"""Annotation column of a record's `groups` -> how it is called in a heading; in the order of the tables."""

ENGLISH = {
    "不符合": "not applicable",
    # Departments.
    "预防保健科": "preventive care",
    "全科医疗科": "general practice",
    "内科": "internal medicine",
    "外科": "surgery",
    "妇产科": "obstetrics and gynaecology",
    "妇女保健科": "women's health",
    "儿科": "paediatrics",
    "小儿外科": "paediatric surgery",
    "儿童保健科": "child health",
    "眼科": "ophthalmology",
    "耳鼻咽喉科": "otorhinolaryngology",
    "口腔科": "dentistry",
    "皮肤科": "dermatology",
    "医疗美容科": "aesthetic medicine",
    "精神科": "psychiatry",
    "传染科": "infectious diseases",
    "结核病科": "tuberculosis",
    "地方病科": "endemic diseases",
    "肿瘤科": "oncology",
    "急诊医学科": "emergency medicine",
    "急诊科": "emergency medicine",
    "康复医学科": "rehabilitation medicine",
    "运动医学科": "sports medicine",
    "职业病科": "occupational diseases",
    "临终关怀科": "hospice care",
    "特种医学与军事医学科": "special and military medicine",
    "麻醉科": "anaesthesiology",
    "疼痛科": "pain medicine",
    "重症医学科": "intensive care medicine",
    "医学检验科": "laboratory medicine",
    "病理科": "pathology",
    "医学影像科": "medical imaging",
    "中医科": "traditional Chinese medicine",
    "民族医学科": "ethnic medicine",
    "中西医结合科": "integrated Chinese and Western medicine",
    # Of our own sample, whose writers did not keep to that catalogue.
    "药学部": "pharmacy",
    "护理部": "nursing",
    "基础医学": "basic medical sciences",
    # Areas of competency.
    "医学基础知识": "basic medical knowledge",
    "疾病诊断和鉴别诊断": "diagnosis and differential diagnosis",
    "疾病治疗": "treatment",
    "疾病预防": "prevention",
    "公卫法律伦理": "public health, law and ethics",
    # Disciplines.
    "临床医学": "clinical medicine",
    "口腔医学": "stomatology",
    "公共卫生": "public health",
    "公共卫生与预防医学": "public health and preventive medicine",
    "中医学": "traditional Chinese medicine",
    "中西医结合": "integrated Chinese and Western medicine",
    "药学": "pharmacy",
    "中药学": "Chinese pharmacy",
    "护理学": "nursing",
}


def figure_label(value: str, number: int) -> str:
    """What a figure calls a value: its English name, itself where it is ASCII, else the number it has in the table."""
    return ENGLISH.get(value) or (value if value.isascii() else f"no. {number}")
