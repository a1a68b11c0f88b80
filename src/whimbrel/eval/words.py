"""Plain English words for keys and word lists, and random values: numbers, identifiers."""

import random
import uuid
from functools import cache


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words("""
able agile airy alert amber ample ancient aquatic arctic arid ashen autumn azure balanced bare basic bitter blank bold
brave breezy brief bright brisk broad bronze bumpy busy calm candid careful cheerful chilly civil classic clean clear
clever cloudy coastal cobalt cold comic common compact cool copper coral cosmic cozy crimson crisp curious curly daily
damp daring dark decent deep delicate dense digital dim direct distant double dry dusty eager early earnest eastern easy
elastic electric elegant empty endless equal exact exotic faint fair faithful famous fancy fast feathered fertile final
fine firm first flat floral fluid foggy fond formal fragile free frequent fresh friendly frosty full funny gentle giant
gifted glad glassy global golden graceful grand grateful gray green happy hardy hasty hazel heavy hidden hollow honest
humble icy ideal idle inner ivory jade jolly joyful keen kind large lasting late lazy level light limber linear little
lively local lofty lone long loose loud loyal lucky lunar magnetic main major marble marine mellow merry middle mighty
mild minor misty modern modest moody mossy muddy mute narrow native neat neutral nimble noble noisy northern novel oaken
odd olive open orange orderly outer pale patient peaceful perfect plain playful pleasant polar polite precious pretty
private proper proud pure purple quick quiet rapid rare ready regal remote rich rigid ripe robust rosy rough round royal
rural rustic safe salty sandy scarlet secret serene shady sharp shiny short shy silent silky silver simple sincere sleepy
slender slow small smart smooth snowy social soft solar solemn solid southern spare special spicy stable steady steep
still stormy strange strict strong sturdy subtle sunny super sweet swift tall tame tender thick thin tidy tiny tough
tranquil true urban useful valid vast velvet violet vital vivid warm wary western wide wild windy wise witty wooden woolen
young zealous
""")

NOUNS = _words("""
acorn actor album alley anchor angle answer ant apple apron arch arena armor arrow artist atlas attic aunt avenue
badge baker balcony ball banjo bank banner barber barn barrel basin basket bat beach beacon bead beam bear beaver bed bee
beetle bell belt bench berry bicycle bird biscuit blanket blossom boat bolt bonnet book boot bottle boulder bow bowl box
branch bread brick bridge broom brush bucket bud buffalo bugle bus butter button cabin cable cactus cafe cage cake camel
camera camp canal candle canoe canvas canyon cape captain car carpet carrot cart castle cat cave cedar cellar chain chair
chalk channel chapel cheese cherry chest chimney circle citizen clarinet clay cliff clock cloud clover coach coal coat
coin collar comet compass concert cook corner cotton couch cradle crane crater crayon creek cricket crown cube cup curtain
cushion dairy daisy dance dancer dawn deck deer desert desk diamond diary dinner dog dolphin donkey door dove dragon drawer
dress drum duck dune eagle ear echo egg elbow elephant elk elm emblem engine envelope evening factory falcon farm farmer
feast feather fence fern ferry fiddle field fig finch finger fire fish flag flame flower flute foal fog forest forge fork
fort fountain fox frame frog fruit galaxy gallery garden garlic gate gazelle gem ghost giraffe glacier glass glove goat
goose grain grape grass grove guest guitar gull hammer hammock harbor hare harp harvest hat hawk hedge helmet hen herald
heron hill hive honey hood hook horn horse hotel house hut ice idea igloo inn iris iron island ivy jacket jar jasmine
jewel journal judge jug jungle kettle key king kitchen kite kitten knee knight knot label ladder lagoon lake lamb lamp
lane lantern lark lawn leaf leather legend lemon lens letter lily lime lion lizard lobster lock locket log lotus lynx
magnet mango map maple market mask mast meadow medal melon mentor metal meteor mill mint mirror mitten mole monkey moon
moose moth motor mountain mouse museum mushroom music nail napkin neck needle nest net night north nose notebook nurse nut
oak oar oasis ocean oatmeal onion opal opera orchard orchid organ otter oven owl oyster packet paddle page paint palace
palm panda panel paper parade park parrot path peach peacock pear pearl pebble pen pencil pepper piano picnic pigeon pillow
pilot pine pipe pirate plane planet plate plaza plow plum pocket poem poet pond pony poppy porch port potato prairie prince
prism puddle pumpkin puppet puzzle pyramid quail quarry queen quilt rabbit radio raft rail rain rainbow raven reef ribbon
rice ring river road robe robin rock rocket roof root rope rose rug ruler sail sailor salad salmon sand satchel saucer
scarf school scooter scroll sea seal season seed shadow shark sheep shelf shell ship shirt shoe shore shovel shrimp silk
singer skate sketch sky sled sleeve slope snail snake snow soap sock sofa soup spade sparrow spear spider spoon spring
squirrel stable stage stair stamp star station statue steam stone stool storm story stove stream street sugar summit sun
swan sweater swing sword table tailor tea teacher temple tent theater thimble thistle thread throne thunder ticket tide
tiger tile timber toad tomato torch tower town toy track trail train tray treasure tree trophy trout trumpet trunk tulip
tunnel turban turtle uncle vale valley van vase vault vessel village vine violin visitor volcano wagon wall walnut walrus
watch water wave weaver well whale wheat wheel whistle willow window winter wizard wolf wool world wren yacht yard zebra
""")

VERBS = _words("""
accept admire advise agree allow announce appear arrange arrive assist attend awake begin belong bend blend blow boil
borrow bounce bring build carry carve catch celebrate change chase choose clap climb collect combine compare complain
confirm connect consider count cover create cross cure decide deliver describe design develop discover divide draw dream
drink drive earn enjoy enter escape examine explain explore fasten fetch fill find finish float follow forget forgive gather
give glow greet grow guard guess guide hang heal hear help hope hunt hurry imagine improve include invent invite join jump
keep knit know laugh launch lead learn lend lift listen live look love measure meet melt mend move nod notice obey observe
offer order pack peel perform plant play point polish pour praise prepare promise protect pull push raise reach read
receive recite refuse relax remain remember remind repair reply rescue rest return ride rise roll run save search
select send serve settle shake share shout show sing sit skip sleep smile solve speak spend spread stand start stay stir
study suggest supply swim take talk taste teach thank think throw touch travel trust try turn twist visit wait walk wander
wash wave wear weave whisper win wish wonder work write
""")


@cache
def word_list() -> tuple[str, ...]:
    """All single words, sorted; each once."""
    return tuple(sorted({*ADJECTIVES, *NOUNS, *VERBS}))


def key(rng: random.Random) -> str:
    """A key of two words, such as ``amber-falcon``."""
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def number(rng: random.Random) -> str:
    """A number of seven digits."""
    return str(rng.randint(1_000_000, 9_999_999))


def identifier(rng: random.Random) -> str:
    """A random UUID (version 4)."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def different_words(rng: random.Random, count: int) -> list[str]:
    """``count`` different words in random order.

    Single words as far as the list goes (about 1,100); where more are asked for, all of them are compounds of two.
    """
    single = word_list()
    if count <= len(single):
        return rng.sample(single, count)
    assert count <= len(ADJECTIVES) * len(NOUNS) // 2, "prompts of ten million tokens"
    pairs = rng.sample(range(len(ADJECTIVES) * len(NOUNS)), count)
    return [f"{ADJECTIVES[pair // len(NOUNS)]}{NOUNS[pair % len(NOUNS)]}" for pair in pairs]
