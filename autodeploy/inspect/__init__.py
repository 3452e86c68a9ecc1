"""Terminal and notebook views of graphs, passes, plans and costs."""

from autodeploy.inspect.fold import fold_graph
from autodeploy.inspect.model import Flow, GraphView, Group, Operation, OperatorCost
from autodeploy.inspect.page import Page
from autodeploy.inspect.pipeline_page import Worth
from autodeploy.inspect.subject import DECODE, PROMPT, Subject
from autodeploy.inspect.views import view, view_diff, view_graph, view_memory, view_pipeline, view_report, view_roofline
from autodeploy.inspect.worth import predict_worths, with_measured

__all__ = [
    "DECODE",
    "PROMPT",
    "Flow",
    "GraphView",
    "Group",
    "Operation",
    "OperatorCost",
    "Page",
    "Subject",
    "Worth",
    "fold_graph",
    "predict_worths",
    "view",
    "view_diff",
    "view_graph",
    "view_memory",
    "view_pipeline",
    "view_report",
    "view_roofline",
    "with_measured",
]
