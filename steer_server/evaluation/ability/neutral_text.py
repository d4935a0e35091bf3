"""Short encyclopaedic paragraphs that take no side, for perplexity: is a setting still fluent in plain prose?

Written for this purpose and taken from nowhere. Not covered: dialogue, code, languages but English.
"""

from __future__ import annotations

PASSAGES = tuple(
    " ".join(paragraph.split())
    for paragraph in """
Water moves between the sea, the air and the land in a cycle that has no beginning. The sun warms the
surface of the ocean, and some of the water turns into vapour, which rises and cools until it forms clouds.
When the drops in a cloud grow heavy, they fall as rain or snow. Part of this water runs into streams and
rivers, and part of it sinks into the ground, where it may stay for many years before it reaches the sea
again.

A honey bee colony lives in a nest of wax combs, which are made of small cells with six sides. Some cells
hold honey and pollen, and in others the young bees grow. Worker bees clean the nest, feed the young and
later fly out to collect nectar from flowers. A bee that has found a good place returns and performs a dance
on the comb. The angle and the length of the dance tell the others in which direction to fly and how far.

Bread is one of the oldest prepared foods. Flour is mixed with water and a little salt, and the dough is
worked until it becomes smooth and elastic. In leavened bread, yeast feeds on the sugars in the flour and
gives off a gas that is trapped in the dough and makes it rise. In the oven the outside dries into a crust,
while the inside stays soft. Flat breads are made without yeast and are baked within a few minutes on a hot
surface.

The roads of ancient Rome were built in layers. Workers dug a shallow trench and filled it with large
stones, then with smaller ones, gravel and sand, and on important routes they added flat paving stones on
top. The surface was slightly higher in the middle, so that rain ran off into ditches at both sides.
Milestones told travellers how far it was to the next town. Some of these roads were in use for more than a
thousand years.

The Moon takes about four weeks to travel once around the Earth. During this time its shape in the sky seems
to change, because we see different parts of the half that is lit by the sun. At new moon the lit side faces
away from us. A thin crescent appears a few days later and grows until the whole disc is bright at full
moon. Then the lit part becomes smaller again, night by night, until the cycle starts anew.

A glacier forms where more snow falls in winter than melts in summer. Over many years the lower layers are
pressed together by the weight above them and turn into dense blue ice. When the ice is thick enough, it
begins to flow slowly downhill, often by less than a metre a day. As it moves, it carries rocks along and
grinds the ground below. Valleys that were shaped by glaciers have steep walls and a broad floor.

Before printing was known, books were copied by hand, and a single volume could take months to finish.
Printing with carved wooden blocks was practised in East Asia for centuries, and movable type was tried
there as well. In the fifteenth century a workshop in Mainz combined metal type, oil based ink and a screw
press. Pages could now be produced in large numbers, and books became cheaper. Within fifty years there were
presses in more than two hundred towns.

Tea is made from the leaves of an evergreen shrub that grows best in warm regions with plenty of rain. The
young leaves are picked several times a year. For green tea they are heated soon after picking, so that they
keep their colour. For black tea the leaves are rolled and left in moist air, where they turn dark and
develop a stronger taste. Finally they are dried, sorted by size and packed. The drink is prepared by
pouring hot water over the leaves.

A volcano is an opening through which molten rock from below reaches the surface. Where the melt is thin and
runs easily, it spreads out in wide streams and builds a broad mountain with gentle slopes. Where it is
thick, gas cannot escape from it, and eruptions are more violent. Ash and fragments of rock then pile up
around the vent and form a steep cone. Soil that develops from volcanic ash is often fertile, so that many
people farm near volcanoes.

The bicycle as it is known today appeared near the end of the nineteenth century. Earlier models had a very
large front wheel that was driven directly by the pedals, and riders sat high above the ground. The safety
bicycle had two wheels of equal size and a chain that drove the rear one. Tyres filled with air made the
ride far smoother on rough streets. Since then the frame has changed little, although gears, brakes and
materials have been improved.

Chess is played by two people on a board of sixty four squares. Each player begins with sixteen pieces,
which move in different ways: the rook along straight lines, the bishop along diagonals, the knight in a
short bent jump. Players move in turn, and a piece that lands on a square held by the opponent captures what
stands there. The game ends when one king is attacked and cannot escape. If neither side can win, the game
is drawn.

Green plants make sugar from water and carbon dioxide with the help of light. The process takes place in
small bodies inside the cells of the leaf, which contain a green pigment. Water comes up from the roots,
while carbon dioxide enters through tiny pores on the lower side of the leaf. Oxygen is released as a
by-product. Part of the sugar is used at once, and the rest is stored as starch or turned into the material
of stems and wood.

The heart is a muscle about the size of a fist. It has four chambers, two on each side. The right side
receives blood that has passed through the body and sends it to the lungs, where it takes up oxygen. The
left side receives this fresh blood and pumps it into the large artery that supplies all organs. Valves
between the chambers open and close with every beat, so that the blood flows in one direction only.

Paper is made from plant fibres that are separated in water and spread in a thin layer on a screen. When the
water drains away, the fibres lie across each other and bond as they dry. Rags of linen and cotton were the
usual material for a long time. Most paper now comes from wood, which is ground or boiled with chemicals
until it turns into pulp. Old paper can be mixed with water again, cleaned of ink and made into new sheets.

A map shows a part of the Earth's surface on a flat sheet. Because the Earth is round, no map can show all
distances, angles and areas without error, and the maker has to choose which of them matters most. The scale
tells how many metres on the ground correspond to a centimetre on the map. Symbols stand for roads, rivers
and settlements, and thin lines may join points of equal height. On most maps north is at the top.

Bridges carry roads and railways across rivers, valleys and other roads. The simplest kind is a beam that
rests on a support at each end. An arch passes the load sideways to its two feet, which must be held firmly
by the ground. In a suspension bridge the roadway hangs from cables that run over tall towers and are
anchored in heavy blocks. Engineers choose among these types according to the width of the gap, the ground
and the material at hand.

Owls hunt mostly at night. Their large eyes face forward and cannot turn in their sockets, so the birds move
the whole head to look around. In many species the openings of the ears lie at slightly different heights,
which helps them find out where a faint sound comes from. Soft fringes along the wing feathers make their
flight nearly silent. Owls swallow small prey whole and later bring up pellets of bones and fur that they
cannot digest.

Salt has been gathered in several ways. On warm coasts sea water is led into shallow basins, where the sun
and the wind remove the water and a white crust remains. Inland, salt is dug from layers that were left
behind by seas which dried up long ago. In other places fresh water is pumped down to dissolve the salt, and
the brine is boiled at the surface. Before refrigeration was available, salt was used mainly to preserve
fish, meat and vegetables.

In a steam engine, water is heated in a closed boiler until it turns into steam under pressure. The steam is
let into a cylinder, where it pushes a piston, and the motion of the piston turns a wheel by means of a rod
and a crank. Early engines were slow and burned a great deal of coal; they pumped water out of mines. Later
designs cooled the steam in a separate vessel, which saved fuel. Such engines drove mills, ships and
locomotives.

A library keeps books and other records so that they can be found again. Each item is given a number or a
code that states its subject, and the items stand on the shelves in the order of these codes. A catalogue
lists what the library holds by author, title and subject. Readers may borrow many of the books for some
weeks, while rare or heavy ones are used in a reading room. Larger libraries exchange items with one another
on request.

Clocks need something that repeats at a steady rate. Water clocks measured time by the flow from one vessel
into another. In a pendulum clock a weight swings back and forth, and each swing lets a toothed wheel
advance by one step. The time of a swing depends on the length of the pendulum. Watches that were carried
about used a balance wheel with a fine spring instead. Most clocks today count the vibrations of a small
crystal of quartz.

The potato comes from the highlands of South America, where it was grown thousands of years ago. It is a
tuber, a thick part of an underground stem in which the plant stores starch. Each eye on its surface can
grow into a new shoot, so farmers plant small tubers or pieces of larger ones. Potatoes prefer cool weather
and loose soil. They are dug up when the leaves have turned yellow, and can be kept for months in a dark and
cool place.

Coral reefs are built by small animals that live together in large colonies. Each of them forms a hard cup
of limestone around its soft body, and when it dies the cup remains and others grow on top. Most reef corals
house tiny algae that provide them with food made from sunlight, and for this reason they live in clear and
shallow water. Reefs grow by a few centimetres a year at most, and give shelter to a great number of fish.

The level of the sea rises and falls along most coasts twice a day. These tides are caused by the pull of
the Moon and, to a smaller degree, of the Sun. When both act along the same line, at new moon and at full
moon, the difference between high and low water is greatest. The shape of the coast matters as well: in
narrow bays the water can rise by more than ten metres, while in some enclosed seas a tide can hardly be
noticed.
""".strip().split("\n\n")
)
