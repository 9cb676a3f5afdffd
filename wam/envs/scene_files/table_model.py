"""URDF of the play table, its blocks and the floor, written from the numbers of a scene."""

from collections.abc import Iterable
from math import cos, pi, sin

from wam.envs.scene_files import geometry as g
from wam.envs.scene_files.solids import Solid, box, cylinder, hull_text, obj_text, prism, sphere
from wam.envs.scene_files.textures import wood
from wam.envs.scene_files.urdf import (
    Shape,
    box_shape,
    cylinder_shape,
    joint,
    link,
    mesh_shape,
    robot,
)

Files = dict[str, bytes]

_TABLE_CONTACT = {"lateral_friction": 0.5}
_WHITE = (1.0, 1.0, 1.0)
_GREY = (0.4, 0.4, 0.4)
_HANDLE = (0.36, 0.36, 0.36)
_GROOVE = (0.32, 0.24, 0.16)
_BLACK = (0.02, 0.02, 0.02)
_WOOD_TILE_M = 0.4
_FLOOR_TILE_M, _FLOOR_TILES = 0.5, 8


def table_files(scene: g.SceneGeometry) -> Files:
    """``table.urdf``, ``frame.urdf`` and ``plank.urdf`` with the meshes and textures they name.

    Frame and plank are fixed: contacts with rigid bodies of their own cost far less than those
    with links of a jointed body.
    """
    writer = _Writer()
    writer.texture("base_wood", scene.base_colour)
    writer.texture("door_wood", scene.door_colour)
    frame = link(
        "frame",
        mass=0.0,
        collisions=[*writer.hulls("base", _base(scene)), *_button_ring(scene)],
        visuals=[
            writer.wooden("base", [*_visible_base(scene), *_visible_ring(scene)], "base_wood"),
            writer.plain("grooves", _switch_grooves(scene), _GROOVE),
        ],
        contact=_TABLE_CONTACT,
    )
    base = link("base_link", mass=0.0)
    parts = [base, *_moving_links(writer), *_fixed_links(writer, scene), *_joints(scene)]
    plank = link(
        "plank",
        mass=0.0,
        collisions=writer.hulls("plank", [_plank(scene)]),
        visuals=[writer.wooden("plank", [_plank(scene)], "base_wood")],
        contact=_TABLE_CONTACT,
    )
    writer.files["table.urdf"] = robot(f"play_table_{scene.name}", parts).encode()
    writer.files["frame.urdf"] = robot("play_table_frame", [frame]).encode()
    writer.files["plank.urdf"] = robot("play_table_plank", [plank]).encode()
    return writer.files


def block_files(colour: str, size: str) -> Files:
    """``block_<colour>.urdf``: a box of 1 kg, its long side along local x."""
    length, half = g.BLOCK_LENGTH[size], g.BLOCK_WIDTH / 2
    solid = box((-length / 2, length / 2), (-half, half), (-half, half))
    writer = _Writer()
    part = link(
        "block",
        mass=g.BLOCK_MASS,
        collisions=writer.hulls(f"block_{colour}", [solid]),
        visuals=[writer.plain(f"block_{colour}", [solid], g.BLOCK_COLOURS[colour])],
        contact={"lateral_friction": 0.7, "spinning_friction": 0.001},
    )
    writer.files[f"block_{colour}.urdf"] = robot(f"block_{colour}", [part]).encode()
    return writer.files


def floor_files() -> Files:
    """``plane.urdf``: a light checkered floor at height 0."""
    half = _FLOOR_TILES * _FLOOR_TILE_M / 2
    tiles: dict[bool, list[Solid]] = {True: [], False: []}
    for i in range(_FLOOR_TILES):
        for k in range(_FLOOR_TILES):
            x, y = i * _FLOOR_TILE_M - half, k * _FLOOR_TILE_M - half
            far_x, far_y = x + _FLOOR_TILE_M, y + _FLOOR_TILE_M
            corners = ((x, y, 0.0), (far_x, y, 0.0), (far_x, far_y, 0.0), (x, far_y, 0.0))
            tiles[(i + k) % 2 == 0].append(Solid(corners, ((0, 1, 2, 3),)))
    writer = _Writer()
    part = link(
        "plane",
        mass=0.0,
        collisions=[box_shape((-15.0, -15.0, -10.0), (15.0, 15.0, 0.0))],
        visuals=[
            writer.plain("floor_light", tiles[True], (1.0, 1.0, 1.0)),
            writer.plain("floor_dark", tiles[False], (0.86, 0.86, 0.86)),
        ],
        contact={"lateral_friction": 1.0},
    )
    writer.files["plane.urdf"] = robot("plane", [part]).encode()
    return writer.files


class _Writer:
    """Collects the files that a URDF names."""

    def __init__(self) -> None:
        self.files: Files = {}

    def texture(self, name: str, colour: tuple[int, int, int]) -> None:
        self.files[f"{name}.png"] = wood(colour)
        self.files[f"{name}.mtl"] = (
            f"newmtl {name}\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nmap_Kd {name}.png\n".encode()
        )

    def wooden(self, name: str, solids: Iterable[Solid], texture: str) -> Shape:
        text = obj_text(solids, texture_m=_WOOD_TILE_M, material=texture)
        self.files[f"{name}_wood.obj"] = text.encode()
        return mesh_shape(f"{name}_wood.obj")

    def plain(
        self, name: str, solids: Iterable[Solid], colour: tuple[float, float, float]
    ) -> Shape:
        self.files[f"{name}.obj"] = obj_text(solids).encode()
        return mesh_shape(f"{name}.obj", colour)

    def hulls(self, name: str, solids: Iterable[Solid]) -> list[Shape]:
        """Collision shapes: primitives for boxes, convex hulls for the rest."""
        shapes = []
        for index, solid in enumerate(solids):
            if solid.box is not None:
                shapes.append(box_shape(*solid.box))
            else:
                filename = f"{name}_hull_{index}.obj"
                self.files[filename] = hull_text(solid).encode()
                shapes.append(mesh_shape(filename))
        return shapes


def _link(name: str, mass: float, collisions: list[Shape], visuals: list[Shape]) -> str:
    return link(
        f"{name}_link",
        mass=mass,
        collisions=collisions,
        visuals=visuals,
        contact=_TABLE_CONTACT,
    )


def _moving_links(writer: "_Writer") -> list[str]:
    """Button, switch, sliding door and drawer (docs/calvin.md 3.3)."""
    button = [cylinder(0.032, 0.0, 0.024, axis=1)]
    button_collision = [cylinder_shape(0.032, 0.024, (0.0, 0.012, 0.0), (pi / 2, 0.0, 0.0))]
    switch = _switch()
    door, door_handle = _slide(0.12)
    # The panel's hull reaches farther than what is seen of it.
    visible_door, _ = _slide(0.11)
    drawer, drawer_handle = _drawer()
    return [
        _link("button", 0.15381, button_collision, [writer.plain("button", button, _BLACK)]),
        _link(
            "switch",
            0.23879,
            writer.hulls("switch", switch),
            [writer.plain("switch", switch, _GREY)],
        ),
        _link(
            "slide",
            1.54349,
            writer.hulls("slide", [*door, *door_handle]),
            [
                writer.wooden("door", visible_door, "door_wood"),
                writer.plain("door_handle", door_handle, _HANDLE),
            ],
        ),
        _link(
            "drawer",
            4.23128,
            writer.hulls("drawer", [*drawer, *drawer_handle]),
            [
                writer.wooden("drawer", drawer, "door_wood"),
                writer.plain("drawer_handle", drawer_handle, _HANDLE),
            ],
        ),
    ]


def _fixed_links(writer: "_Writer", scene: g.SceneGeometry) -> list[str]:
    """LED, light bulb and, empty, the plank of the shelf."""
    led = [box((-0.08, 0.08), (0.0, 0.016), (-0.02, 0.02))]
    low = -0.056 + (0.004 if scene.name == "B" else 0.0)
    light = [box((-0.028, 0.028), (0.0, 0.05), (low, low + 0.056))]
    bulb = [sphere((0.0, 0.025, low + 0.028), 0.028)]
    return [
        _link("led", 0.204, writer.hulls("led", led), [writer.plain("led", led, _WHITE)]),
        _link(
            "light",
            scene.light_mass,
            writer.hulls("light", light),
            [writer.plain("bulb", bulb, _WHITE)],
        ),
        _link("plank", 2.84375, [], []),
    ]


def _joints(scene: g.SceneGeometry) -> list[str]:
    """All joints in CALVIN's order, which fixes their indices (docs/calvin.md 3.1)."""
    moving: tuple[tuple[str, str, g.Vector, g.Vector, g.Vector, float], ...] = (
        (g.BUTTON_JOINT, "button", scene.button, g.TABLE_RPY, (0.0, -1.0, 0.0), g.BUTTON_LIMIT),
        (g.SWITCH_JOINT, "switch", scene.switch, g.SWITCH_RPY, (0.0, 0.0, -1.0), g.SWITCH_LIMIT),
        (g.SLIDE_JOINT, "slide", scene.slide, g.SLIDE_RPY, (-1.0, 0.0, 0.0), scene.slide_limit),
        (g.DRAWER_JOINT, "drawer", scene.drawer, g.TABLE_RPY, (0.0, 0.0, 1.0), g.DRAWER_LIMIT),
    )
    fixed = (("led", scene.led), ("light", scene.light), ("plank", scene.plank))
    return [
        *(
            joint(
                name,
                "prismatic",
                "base_link",
                f"{child}_link",
                xyz=xyz,
                rpy=rpy,
                axis=axis,
                limit=(0.0, upper),
            )
            for name, child, xyz, rpy, axis, upper in moving
        ),
        *(
            joint(f"base__{name}", "fixed", "base_link", f"{name}_link", xyz=xyz, rpy=g.TABLE_RPY)
            for name, xyz in fixed
        ),
    ]


def _base(scene: g.SceneGeometry) -> list[Solid]:
    """The fixed body (docs/calvin.md 3.2)."""
    c0, c1 = scene.opening
    d0, d1 = scene.bay
    top, roof = g.TABLE_TOP, g.CABINET_TOP
    under_roof = roof - 0.02
    side = [(g.slope_y(top), top), (0.18, top), (0.18, roof), (g.slope_y(roof), roof)]
    roof_outline = [
        (g.slope_y(under_roof), under_roof),
        (0.18, under_roof),
        (0.18, roof),
        (g.slope_y(roof), roof),
    ]
    legs = [
        box(x, y, (0.0, 0.40))
        for x in ((-0.44, -0.40), (0.40, 0.44))
        for y in ((-0.18, -0.148), (0.148, 0.18))
    ]
    return [
        *legs,
        box((-0.42, 0.42), (-0.16, 0.16), (0.30, 0.32)),
        box((-0.42, d0), (-0.16, 0.16), (0.32, 0.40)),
        box((d1, 0.42), (-0.16, 0.16), (0.32, 0.40)),
        box((d0, d1), (0.06, 0.16), (0.32, 0.40)),
        box((-0.44, 0.44), (-0.18, 0.18), (0.40, 0.42)),
        box((-0.44, 0.44), (-0.18, 0.02), (0.42, top)),
        box((-0.44, c0), (0.02, 0.18), (0.42, top)),
        box((c1, 0.44), (0.02, 0.18), (0.42, top)),
        prism((-0.44, c0), side),
        prism((c1, 0.44), side),
        box((c0, c1), (0.16, 0.18), (0.42, roof)),
        prism((c0, c1), roof_outline),
    ]


def _plank(scene: g.SceneGeometry) -> Solid:
    """The shelf's floor, where the blocks lie."""
    c0, c1 = scene.opening
    x, y, z = scene.plank
    half = (c1 - c0) / 2
    return box((x - half, x + half), (y - 0.07, y + 0.07), (z, z + 0.02))


def _visible_base(scene: g.SceneGeometry) -> list[Solid]:
    """What the cameras can see of the body: every hidden surface would cost rendering time."""
    c0, c1 = scene.opening
    d0, d1 = scene.bay
    solids = _base(scene)
    legs, cabinet = solids[:4], solids[-4:]
    return [
        box((-0.44, 0.44), (-0.18, 0.02), (0.40, g.TABLE_TOP)),
        box((-0.44, c0), (0.02, 0.18), (0.40, g.TABLE_TOP)),
        box((c1, 0.44), (0.02, 0.18), (0.40, g.TABLE_TOP)),
        *cabinet,
        box((-0.42, d0), (-0.16, 0.16), (0.30, 0.40)),
        box((d1, 0.42), (-0.16, 0.16), (0.30, 0.40)),
        box((d0, d1), (-0.16, 0.06), (0.30, 0.32)),
        *legs,
    ]


def _visible_ring(scene: g.SceneGeometry) -> list[Solid]:
    """The flat collar around the button."""
    x, y, z = scene.button
    collar = cylinder(0.04, -0.02, 0.0, axis=2)
    vertices = tuple((a + x, b + y, c + z) for a, b, c in collar.vertices)
    return [Solid(vertices, collar.faces)]


def _button_ring(scene: g.SceneGeometry) -> list[Shape]:
    """Twelve boxes around the button, radius 0.03 to 0.04."""
    x, y, z = scene.button
    shapes = []
    for i in range(12):
        angle = 2 * pi * i / 12
        centre = (x + 0.035 * cos(angle), y + 0.035 * sin(angle), z - 0.01)
        shapes.append(Shape('<box size="0.01 0.019 0.02"/>', centre, (0.0, 0.0, angle)))
    return shapes


def _switch_grooves(scene: g.SceneGeometry) -> list[Solid]:
    """Two dark strips a hair in front of the cabinet, where the switch's posts run."""
    x, low, high = scene.switch[0], 0.49, 0.594
    y0, y1 = g.slope_y(low) - 0.001, g.slope_y(high) - 0.001
    outline = [(y0, low), (y0 + 0.01, low), (y1 + 0.01, high), (y1, high)]
    return [prism((x + side - 0.01, x + side + 0.01), outline) for side in (-0.05, 0.05)]


def _switch() -> list[Solid]:
    return [
        box((-0.06, 0.06), (0.0416, 0.0643), (-0.0242, 0.008)),
        box((-0.060, -0.039), (0.0, 0.064), (-0.0242, 0.008)),
        box((0.039, 0.060), (0.0, 0.064), (-0.0242, 0.008)),
    ]


def _slide(half_height: float) -> tuple[list[Solid], list[Solid]]:
    """Panel and handle of the sliding door."""
    panel = [box((0.0, 0.28), (-half_height, half_height), (0.0, 0.022))]
    handle = [
        box((0.12, 0.16), (-0.08, -0.057), (0.02, 0.08)),
        box((0.12, 0.16), (0.057, 0.08), (0.02, 0.08)),
        box((0.12, 0.16), (-0.08, 0.08), (0.0575, 0.080)),
    ]
    return panel, handle


def _drawer() -> tuple[list[Solid], list[Solid]]:
    """Tray and handle of the drawer."""
    tray = [
        box((-0.22, 0.22), (-0.02, 0.08), (0.16, 0.18)),
        box((-0.20, 0.20), (0.0, 0.02), (-0.06, 0.16)),
        box((-0.20, -0.18), (0.0, 0.08), (-0.06, 0.16)),
        box((0.18, 0.20), (0.0, 0.08), (-0.06, 0.16)),
        box((-0.20, 0.20), (0.0, 0.08), (-0.06, -0.04)),
    ]
    handle = [
        box((-0.12, -0.096), (0.02, 0.06), (0.18, 0.26)),
        box((0.096, 0.12), (0.02, 0.06), (0.18, 0.26)),
        box((-0.12, 0.12), (0.02, 0.06), (0.24, 0.26)),
    ]
    return tray, handle
