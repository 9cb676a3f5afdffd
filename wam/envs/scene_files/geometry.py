"""The numbers of the play tables A to D: metres, kilograms, radians.

Source: docs/calvin.md 2.1 to 2.3, 2.7, 2.8 and 3.
"""

from dataclasses import dataclass
from math import pi

from wam.errors import WamError

Vector = tuple[float, float, float]
Range = tuple[float, float]
Surface = tuple[Vector, Vector]

ROBOT_BASE: Vector = (-0.34, -0.46, 0.24)
PEDESTAL_CENTRE: Vector = (-0.39, -0.46, 0.12)
PEDESTAL_RADIUS, PEDESTAL_HEIGHT = 0.13, 0.24

BLOCK_LENGTH = {"small": 0.040, "middle": 0.056, "big": 0.080}
BLOCK_WIDTH = 0.040
BLOCK_MASS = 1.0
BLOCK_COLOURS = {"red": (1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0), "pink": (1.0, 0.0, 1.0)}

SLIDE_JOINT, DRAWER_JOINT = "base__slide", "base__drawer"
BUTTON_JOINT, SWITCH_JOINT = "base__button", "base__switch"
"""The table's joints by name; their places in ``scene_obs`` are those of :mod:`wam.tasks`."""
DRAWER_LIMIT, BUTTON_LIMIT, SWITCH_LIMIT = 0.22, 0.02, 0.088

BULB_ON = (1.0, 1.0, 0.0, 1.0)
LED_ON = (0.0, 1.0, 0.0, 1.0)
LIGHT_OFF = (1.0, 1.0, 1.0, 1.0)

TABLE_RPY = (pi / 2, 0.0, 0.0)
"""Child frames of the button, drawer, LED, light and plank: local y points up."""
SWITCH_RPY = (5 * pi / 6, 0.0, 0.0)
SLIDE_RPY = (pi / 3, 0.0, 0.0)

CABINET_TOP = 0.648
TABLE_TOP = 0.44


def slope_y(z: float) -> float:
    """y of the slanted cabinet front at height ``z``: the plane -0.866 y + 0.5 z = 0.203."""
    (y0, z0), (y1, z1) = (0.02, TABLE_TOP), (0.14, CABINET_TOP)
    return y0 + (z - z0) * (y1 - y0) / (z1 - z0)


@dataclass(frozen=True, kw_only=True)
class SceneGeometry:
    """What differs between the four tables."""

    name: str
    button: Vector
    switch: Vector
    slide: Vector
    slide_limit: float
    drawer: Vector
    led: Vector
    light: Vector
    light_mass: float
    plank: Vector
    opening: Range
    """x-range of the cabinet opening and of the shelf recess."""
    bay: Range
    """x-range of the drawer bay."""
    blocks: tuple[tuple[str, str], ...]
    """(colour, size) in the order of ``scene_obs``."""
    surfaces: dict[str, Surface]
    """Boxes (low, high) in which block positions are sampled."""
    base_colour: tuple[int, int, int]
    door_colour: tuple[int, int, int]


def _surfaces(table: Range, slider_left: Range, slider_right: Range) -> dict[str, Surface]:
    def surface(x: Range, y: Range) -> Surface:
        return ((x[0], y[0], 0.46), (x[1], y[1], 0.46))

    return {
        "table": surface(table, (-0.15, -0.03)),
        "slider_left": surface(slider_left, (0.05, 0.12)),
        "slider_right": surface(slider_right, (0.05, 0.12)),
    }


SCENES = {
    "A": SceneGeometry(
        name="A",
        button=(-0.28, -0.12, 0.46),
        switch=(0.30, 0.060928, 0.494890),
        slide=(-0.10, 0.075, 0.535264),
        slide_limit=0.28,
        drawer=(0.10, 0.0, 0.32),
        led=(-0.28, 0.16, 0.647846),
        light=(0.30, 0.132, 0.647848),
        light_mass=0.17392,
        plank=(-0.10, 0.09, 0.42),
        opening=(-0.36, 0.16),
        bay=(-0.10, 0.30),
        blocks=(("pink", "small"), ("blue", "big"), ("red", "middle")),
        surfaces=_surfaces((-0.20, 0.35), (-0.32, -0.16), (-0.05, 0.13)),
        base_colour=(121, 70, 46),
        door_colour=(121, 70, 46),
    ),
    "B": SceneGeometry(
        name="B",
        button=(0.28, -0.12, 0.46),
        switch=(-0.32, 0.060928, 0.494890),
        slide=(0.088, 0.075, 0.535264),
        slide_limit=0.304,
        drawer=(0.18, 0.0, 0.32),
        led=(0.28, 0.16, 0.647846),
        light=(-0.32, 0.136, 0.647848),
        light_mass=0.11526,
        plank=(0.08, 0.09, 0.42),
        opening=(-0.18, 0.34),
        bay=(-0.02, 0.38),
        blocks=(("red", "small"), ("blue", "big"), ("pink", "middle")),
        surfaces=_surfaces((-0.35, 0.15), (-0.12, 0.06), (0.15, 0.33)),
        base_colour=(244, 196, 140),
        door_colour=(244, 196, 140),
    ),
    "C": SceneGeometry(
        name="C",
        button=(-0.12, -0.12, 0.46),
        switch=(-0.32, 0.060928, 0.494890),
        slide=(0.06, 0.075, 0.535264),
        slide_limit=0.24,
        drawer=(0.10, 0.0, 0.32),
        led=(-0.12, 0.16, 0.647846),
        light=(-0.32, 0.132, 0.647848),
        light_mass=0.17392,
        plank=(0.08, 0.09, 0.42),
        opening=(-0.18, 0.34),
        bay=(-0.10, 0.30),
        blocks=(("blue", "small"), ("red", "big"), ("pink", "middle")),
        surfaces=_surfaces((0.00, 0.35), (-0.12, 0.06), (0.15, 0.30)),
        base_colour=(159, 108, 64),
        door_colour=(121, 70, 46),
    ),
    "D": SceneGeometry(
        name="D",
        button=(-0.12, -0.12, 0.46),
        switch=(0.30, 0.060928, 0.494890),
        slide=(-0.10, 0.075, 0.535264),
        slide_limit=0.28,
        drawer=(0.18, 0.0, 0.32),
        led=(-0.12, 0.16, 0.647846),
        light=(0.30, 0.132, 0.647848),
        light_mass=0.17392,
        plank=(-0.10, 0.09, 0.42),
        opening=(-0.36, 0.16),
        bay=(-0.02, 0.38),
        blocks=(("red", "middle"), ("blue", "small"), ("pink", "big")),
        surfaces=_surfaces((0.00, 0.35), (-0.32, -0.16), (-0.05, 0.13)),
        base_colour=(156, 117, 78),
        door_colour=(156, 117, 78),
    ),
}


def scene_geometry(name: str) -> SceneGeometry:
    """The numbers of scene ``name``. Raises WamError for an unknown scene."""
    if name not in SCENES:
        raise WamError(f"scene: unknown scene {name!r}; known: {', '.join(SCENES)}")
    return SCENES[name]
