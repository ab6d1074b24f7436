from tests.capture.conftest import folder, model, nothing_left_behind

__all__ = ["folder", "model", "nothing_left_behind"]
