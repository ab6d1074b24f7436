"""The demo: the whole path on a model that draws the Shapes world, ending in a report with pictures.

`run_demo.py` holds the stages in order; `demo_plan.py` every number they depend on.
"""
