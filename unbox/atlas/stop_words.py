"""Words that label nothing, and that no search asks for."""

import re

STOP = frozenset(re.findall(r"\w+", """a an and are as at be by for from has in into is it its near next of
    on or over that the their there this to under with"""))  # fmt: skip
