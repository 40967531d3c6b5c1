"""The rules of de-identification in their order.

A rule needs a checksum, a fixed shape, or a cue word beside the identifier. It runs only on texts that hold one of its
`hints`: that is what makes it fast. What contains digits of another rule's shape goes first (an identity number holds
a date, a record number may hold a phone).
"""

from __future__ import annotations

from qilin_lib.chimed.deid_base import Rule
from qilin_lib.chimed.deid_contacts import ACCOUNT_RULES, CONTACT_RULES, PHONE_RULES
from qilin_lib.chimed.deid_labels import LABEL_RULES
from qilin_lib.chimed.deid_names import NAME_RULES
from qilin_lib.chimed.deid_numbers import BED_RULES, BIRTH_RULES, IDENTITY_RULES
from qilin_lib.chimed.deid_places import PLACE_RULES

RULES: tuple[Rule, ...] = (
    *CONTACT_RULES,
    *IDENTITY_RULES,
    *ACCOUNT_RULES,
    *PHONE_RULES,
    *BED_RULES,
    *BIRTH_RULES,
    *PLACE_RULES,
    *LABEL_RULES,
    *NAME_RULES,
)
