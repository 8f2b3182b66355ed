"""Facts hidden in books, and questions that share no word with them: searching for words can't find them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from ....data.questions.base import Quiz, Split
from ....prompts import FEW_WORDS
from ..meter import Meter
from .base import PackedText, TextSpec
from .synthetic import hidden_facts

# (fact, question, answer): fact and question have no word in common but those of `scoring.words` that carry no meaning,
# not even the beginning of one. Even numbers are the even half.
FACTS = (
    ("The widow keeps her spare key under the third flowerpot.", "Where could a burglar look to unlock that lady's house?", "flowerpot"),
    ("Captain Orlow lost two fingers to frostbite near Spitsbergen.", "Which body parts were missing on a seaman after extreme cold?", "fingers"),
    ("The physician prescribed willow bark for the boy's fever.", "What remedy did a doctor give against high temperature?", "willow"),
    ("Nobody at the inn would rent room nine since the fire.", "Which chamber did guests avoid after something burned?", "nine"),
    ("The miller's horse was called Thunderfoot.", "What name had an animal that belonged to somebody grinding flour?", "Thunderfoot"),
    ("The bell of the abbey was cast in Toulouse.", "In which town did they make metal that rings for monks?", "Toulouse"),
    ("Old Marta pays her rent in goose eggs.", "With what does an elderly tenant settle monthly debts?", "eggs"),
    ("The thief escaped through the coal cellar.", "By which route could a robber run away?", "cellar"),
    ("Professor Dunn wrote his letters in green ink.", "What colour did an academic prefer for correspondence?", "green"),
    ("The bridegroom arrived four hours late to the wedding.", "How long was everyone kept waiting by a man about to marry?", "four"),
    ("The lighthouse keeper feeds sardines to his cat.", "What food gets some pet at that coastal tower?", "sardines"),
    ("The jury acquitted the baker.", "What trade has someone whom a court found innocent?", "baker"),
    ("Their grandmother was born in Valparaiso.", "From which city came an ancestor of those children?", "Valparaiso"),
    ("The violin had been pawned for sixty crowns.", "How much money was lent on an instrument?", "sixty"),
    ("The gardener is allergic to bees.", "Which insects are dangerous for somebody who looks after plants?", "bees"),
    ("The cathedral's roof leaks above the organ.", "Over what does rain drip inside a large church?", "organ"),
    ("The ferry does not cross on Tuesdays.", "When is there no boat for passengers?", "Tuesday"),
    ("The duke's portrait hangs in the kitchen.", "Where did they put some nobleman as painted?", "kitchen"),
    ("The spy hid the film inside a hollow walnut.", "What contained pictures taken by some secret agent?", "walnut"),
    ("The tailor owes the butcher eleven florins.", "What sum must one who sews clothes still give another who sells meat?", "eleven"),
    ("The orphan was raised by nuns.", "Who brought up a child without parents?", "nuns"),
    ("The telegraph line was cut near Brindisi.", "Close to which place had communication by wire been interrupted?", "Brindisi"),
    ("The clockmaker's apprentice ran off with the circus.", "Whom did a pupil learning about watches join instead?", "circus"),
    ("The soup tasted strongly of saffron.", "Which spice could one notice most during dinner's first course?", "saffron"),
    ("The quarrel between the brothers began over a chessboard.", "What object made siblings fight?", "chessboard"),
    ("The river froze solid in November.", "During which month could people walk upon water?", "November"),
    ("The judge collects butterflies.", "What hobby does a magistrate have?", "butterflies"),
    ("The harbour was mined by submarines.", "What kind of vessels laid explosives where ships anchor?", "submarines"),
    ("The schoolmaster's wig caught fire during the sermon.", "What burned upon some teacher while somebody preached?", "wig"),
    ("The countess sold her emeralds to buy seed potatoes.", "Which jewels did an aristocrat give away so she might plant food?", "emeralds"),
    ("The postman was bitten by a goat.", "Which beast hurt someone delivering mail?", "goat"),
    ("The stowaway was discovered among barrels of vinegar.", "Next to what did sailors find a passenger without ticket?", "vinegar"),
    ("The library closes at half past seven.", "At what time must readers leave from among all those books?", "seven"),
    ("The prisoner carved a flute from a chair leg.", "What musical thing was whittled by a convict?", "flute"),
    ("The mayor is afraid of pigeons.", "Which birds frighten that town's highest official?", "pigeons"),
    ("The treasure lay beneath the dovecote.", "Under which building had gold been buried?", "dovecote"),
    ("The nurse whistled polkas on night duty.", "Which tunes did somebody caring for sick patients perform after dark?", "polkas"),
    ("The bishop travelled by balloon to Prague.", "How did a cleric fly when he journeyed?", "balloon"),
    ("The hunter's rifle jammed in the blizzard.", "What weather made some marksman unable to shoot?", "blizzard"),
    ("The twins were told apart by a scar on the chin.", "Where was a mark that distinguished two identical children?", "chin"),
    ("The actress demanded lilies in her dressing room.", "Which flowers did a stage performer insist on?", "lilies"),
    ("The carpenter built the cradle out of cherry wood.", "Which timber served for an infant's bed?", "cherry"),
    ("The general surrendered after the wells ran dry.", "What shortage forced an army's commander to give up?", "wells"),
    ("The wolfhound guards the distillery.", "Which place making spirits is protected by some big dog?", "distillery"),
    ("The notary had forged the signature with his left hand.", "Using what did an official fake somebody's name?", "left hand"),
    ("The avalanche buried the monastery's beehives.", "What belonging to religious men did sliding snow cover?", "beehives"),
    ("The cook had once been a wrestler.", "What was an earlier profession of whoever prepares meals?", "wrestler"),
    ("The envoy presented the sultan with a giraffe.", "Which creature did an ambassador offer some eastern ruler as a gift?", "giraffe"),
    ("The mine was abandoned because of flooding.", "Why did workers stop digging for coal underground?", "flood"),
    ("The pianist practises wearing gloves.", "What covers a musician's hands while rehearsing?", "gloves"),
    ("The grocer weighs sugar with pebbles.", "What does a shopkeeper put upon scales against sweet goods?", "pebbles"),
    ("The comet appeared on the night of the harvest ball.", "What festivity coincided with something bright in heaven?", "harvest"),
    ("The vicar buried his savings in a teapot.", "Which vessel holds money put underground by some clergyman?", "teapot"),
    ("The expedition ran out of lamp oil.", "What supply was used up first among those explorers?", "oil"),
    ("The barber speaks fluent Portuguese.", "Which foreign language does somebody cutting hair know well?", "Portuguese"),
    ("The statue lost its nose in an earthquake.", "What catastrophe damaged a face made of marble?", "earthquake"),
    ("The shepherd predicts rain from his knee.", "Which joint tells some man with sheep about bad weather?", "knee"),
    ("The heiress married a chimney sweep.", "What job has whoever became husband to that rich girl?", "chimney sweep"),
    ("The parrot had learned to swear in Dutch.", "In which tongue can some talking bird curse?", "Dutch"),
    ("The opera was banned for mocking the tsar.", "Whom did a forbidden musical drama ridicule?", "tsar"),
    ("The smuggler hid the tobacco inside coffins.", "What concealed illegal goods for pipes?", "coffins"),
    ("The astronomer died of a bee sting.", "What killed an observer of stars?", "bee"),
    ("The drawbridge is raised at dusk.", "At which hour can nobody enter that castle any longer?", "dusk"),
    ("The governess had studied mathematics in Uppsala.", "Where did a woman teaching some family's children get her education?", "Uppsala"),
)  # fmt: skip


@dataclass(frozen=True)
class Reworded:
    """All facts of a half hidden in one text, in random order. Later texts hide the same facts in other places of other books."""

    name: str = "reworded"
    metrics: tuple[str, ...] = ("hit",)
    instruction: str = FEW_WORDS
    new_tokens: int = 16

    def texts(self, spec: TextSpec, meter: Meter) -> Iterator[PackedText]:
        def quizzes(rng: random.Random, split: Split) -> list[Quiz]:
            mine = [facts for number, facts in enumerate(FACTS) if spec.takes(number)]
            return [Quiz((f" {fact}",), question, answer) for fact, question, answer in rng.sample(mine, len(mine))]

        return hidden_facts(self.name, quizzes, spec, meter, repeated=True)
