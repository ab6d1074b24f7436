from tests.capture.conftest import folder  # noqa: F401
from tests.models.conftest import tiny  # noqa: F401
