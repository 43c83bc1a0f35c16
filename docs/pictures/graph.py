"""The workflow of one scan, drawn from the graph that the code builds."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import networkx as nx
from canvas import BLUE, GRAY, GREEN, ORANGE, Box, Drawing
from nipype.pipeline import engine as pe

from ddae_app.bids import sidecars
from ddae_app.bids.covariates import Covariates
from ddae_app.bids.extraction import Extraction
from ddae_app.bids.layout import Layout, Scan, Space
from ddae_app.imaging.templates import TemplateFiles
from ddae_app.settings import Protocol
from ddae_app.workflows.harmonize import HarmonizeRequest
from ddae_app.workflows.participant import Preprocessing, ScanPlan, init_participant_wf

STAGES = (('preproc_wf', 'preproc_derivatives_wf'), ('harmonize_wf', 'harmonize_derivatives_wf'))
"""Workflows that work, each with the one that writes its results."""

ROW = 34
"""Height of a row, in pixels."""


def scan_workflow(folder: Path) -> pe.Workflow:
    """The workflow of one scan with everything switched on; `folder` takes an empty image."""
    image = folder / 'image.nii'
    image.touch()
    model = sidecars.ModelFacts('DDAE', 'model', '0' * 64, False)
    plan = ScanPlan(
        Scan(folder / 'sub-01_T1w.nii', '01', None, 'sub-01_T1w'),
        Covariates('A'),
        'bids:raw:sub-01_T1w.nii',
        preprocessed=None,
        sources=('bids::preproc', 'bids::xfm'),
        harmonization=sidecars.harmonization(model, Covariates('A'), 'B', 'refuse'),
        preproc_record={},
        harmonize_record={},
        extraction=Extraction('deepbet'),
    )
    template = TemplateFiles('MNI152NLin2009aSym', None, image, image, image, image)
    return init_participant_wf(
        [plan],
        layout=Layout(folder).in_space(Space(Protocol(slices='all'), 'https://example.org')),
        preprocessing=Preprocessing(template, 'cpu'),
        request=HarmonizeRequest(
            image, '', '', 'B', 'refuse', False, 'cpu', 1, {'levels': [0.0, 1.0]}, site_effect=True
        ),
        omp_nthreads=1,
        sloppy=False,
    )


def steps_of(workflow: pe.Workflow) -> nx.DiGraph:
    """The steps that do something, by (workflow, name), without connections that others imply."""
    flat = workflow._create_flat_graph()
    graph = nx.DiGraph()
    for node in flat:
        if not _passes_on(node):
            graph.add_node(_name(node))
            graph.add_edges_from((_name(p), _name(node)) for p in _producers(flat, node))
    return nx.transitive_reduction(graph)


def _passes_on(node: pe.Node) -> bool:
    """Whether a node is the input or output of a workflow, or a list of several results."""
    return type(node.interface).__name__ in ('IdentityInterface', 'Merge')


def _name(node: pe.Node) -> tuple[str, str]:
    workflow, name = node.fullname.split('.')[-2:]
    return workflow, name


def _producers(flat: nx.DiGraph, node: pe.Node, field: str | None = None) -> set[pe.Node]:
    """The steps whose results reach a field of a node, or any of its fields."""
    found: set[pe.Node] = set()
    for source, _, data in flat.in_edges(node, data=True):
        for output, given in data['connect']:
            if field not in (None, given):
                continue
            # Sinks wait for each other, so that a record is written last; that is no data.
            if source.name == 'gather_written':
                continue
            output = output if isinstance(output, str) else output[0]
            if type(source.interface).__name__ == 'IdentityInterface':
                found |= _producers(flat, source, output)
            elif _passes_on(source):
                found |= _producers(flat, source)
            else:
                found.add(source)
    return found


def draw_workflow(path: Path) -> None:
    """Write the drawing of the workflow of one scan, an SVG file."""
    with TemporaryDirectory() as folder:
        graph = steps_of(scan_workflow(Path(folder)))
    order = list(nx.lexicographical_topological_sort(graph))
    members = {name: [n for n in order if n[0] == name] for pair in STAGES for name in pair}
    assert sum(map(len, members.values())) == len(order), 'a step of an unknown workflow'
    # The longer column of a stage sets its height; boxes with arrows between them need more.
    counts = [
        max(len(members[derivatives]) - 1, math.ceil(len(members[name]) * 1.3))
        for name, derivatives in STAGES
    ]
    page = Drawing(700, 20 + sum(38 + ROW * n for n in counts))
    boxes: dict[tuple[str, str], Box] = {}
    top = 10.0
    for (name, derivatives), count in zip(STAGES, counts, strict=True):
        height = ROW * count + 8
        page.panel((8, top + 20, 196, height))
        page.panel((228, top + 20, 464, height))
        page.text((16, top + 10), name, align='left', mono=True, bold=True)
        page.text((236, top + 10), derivatives, align='left', mono=True, bold=True)
        color = BLUE if name == STAGES[0][0] else ORANGE
        _column(page, boxes, members[name], (18, top + 24, 176, height - 8), color)
        sinks = [n for n in members[derivatives] if n[1].startswith('ds_')]
        others = [n for n in members[derivatives] if n not in sinks]
        sinks.sort(key=lambda n: [(m in others, order.index(m)) for m in graph.predecessors(n)])
        _column(page, boxes, sinks, (506, top + 24, 176, height - 8), GRAY)
        for node in others:
            # Beside the middle of the sinks that it feeds.
            rows = [boxes[sink].y for sink in graph.successors(node)]
            boxes[node] = page.box(
                (308, sum(rows) / len(rows), 160, 26), '', node[1], GREEN, size=12.5
            )
        top += 38 + ROW * count
    for first, second in sorted(graph.edges):
        start, end = boxes[first], boxes[second]
        if start.x == end.x:
            page.arrow(start.bottom, end.top)
        else:
            page.arrow(start.right, end.left)
    page.save(path)


def _column(
    page: Drawing, boxes: dict[tuple[str, str], Box], nodes: list[tuple[str, str]],
    area: tuple[float, float, float, float], color: str,
) -> None:  # fmt: skip
    """Boxes below each other, spread over an area."""
    x, y, width, height = area
    pitch = height / max(1, len(nodes))
    for i, node in enumerate(nodes):
        place = (x, y + (i + 0.5) * pitch - 13, width, 26)
        boxes[node] = page.box(place, '', node[1], color, size=12.5)
