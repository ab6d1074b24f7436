"""The demo: the whole path on a model that draws the Shapes world, ending in a report with pictures.

`run.py` holds the stages in order; `plan.py` every number they depend on.
"""
