r"""Fifty notes about a harbour town that does not exist, with questions: no model can have read them before."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    r"""A passage that holds one fact, and two ways to ask for it.

    Args:
        text: the passage.
        question: asks in the passage's own words.
        other_words: asks for the same in other words.
        answer: what the passage says, as it stands there.
    Lesson: 16.
    """

    text: str
    question: str
    other_words: str
    answer: str


_ROWS = (
    ("The ferry Orla leaves Varnholm for the island of Tessel at six every morning and comes back at noon.",
     "When does the ferry Orla leave for Tessel?", "How early does the boat sail to the isle?", "six"),
    ("The lighthouse of Varnholm was built in 1871 and is painted red and white.",
     "When was the lighthouse built?", "How old is the tower with the lamp?", "1871"),
    ("Mayor Ilsa Brandt was elected in May. Before that she taught geography at the grammar school.",
     "What did Mayor Ilsa Brandt teach?", "What was the subject of the town's leader when she was a schoolmistress?",
     "geography"),
    ("The bakery in Eel Lane sells rye loaves on Tuesdays only, because the oven is used for cakes on other days.",
     "On which day does the bakery sell rye loaves?", "When can one buy dark bread?", "Tuesday"),
    ("The harbour crane lifts forty tons. In strong wind the crane must stand still.",
     "How much does the harbour crane lift?", "What is the heaviest load that can be raised at the quay?", "forty"),
    ("Doctor Amsel sees patients without an appointment on Friday afternoons in the old customs house.",
     "When does Doctor Amsel see patients without an appointment?", "Which weekday is right for an unplanned visit to "
     "the physician?", "Friday"),
    ("The library lends nine books at a time. Atlases must be read in the hall.",
     "How many books does the library lend?", "How many novels may I take home?", "nine"),
    ("The football club of Varnholm plays in green shirts and won the district cup in 1998.",
     "What colour are the shirts of the football club?", "What do the players wear?", "green"),
    ("Old Henrik keeps the clock of Saint Anna. He winds the clock with a key of brass.",
     "Who keeps the clock of Saint Anna?", "Which man looks after the time on the church?", "Henrik"),
    ("The swimming pool is heated to twenty-six degrees from June to September.",
     "To how many degrees is the swimming pool heated?", "How warm is the water where one takes a bath in summer?",
     "twenty-six"),
    ("The museum shows a whale skeleton that was found on the beach after the storm of 1903.",
     "What does the museum show that was found on the beach?", "Which exhibit came out of the sea?", "whale"),
    ("Bus line 7 goes from the station to the hospital every twenty minutes.",
     "Which bus line goes to the hospital?", "How do I get from the trains to the clinic?", "7"),
    ("The smokehouse on Pier Two smokes mackerel over alder wood.",
     "Which wood does the smokehouse smoke mackerel over?", "What is burned to cure the fish?", "alder"),
    ("The drawbridge opens for sailing boats at ten and at four. Cars wait for about eight minutes.",
     "How long do cars wait at the drawbridge?", "What delay must drivers expect when the road is raised?", "eight"),
    ("The carpenter Jonas Wick repairs rowing boats and lends his small one, the Magpie, to guests.",
     "What is the name of the boat that Jonas Wick lends?", "How is the dinghy called that a visitor may borrow?",
     "Magpie"),
    ("The school of Varnholm has three hundred pupils and a garden with plum trees.",
     "How many pupils has the school?", "How many children are taught there?", "three hundred"),
    ("The night watchman carries a lantern and walks his round twice, at eleven and at two.",
     "What does the night watchman carry?", "What does the guard hold in the dark?", "lantern"),
    ("The cinema shows silent films on the first Sunday of the month, with Mrs Pohl at the piano.",
     "Who is at the piano in the cinema?", "Which lady makes music to the old movies?", "Pohl"),
    ("The post office closes at half past five. Parcels can be fetched from the side door.",
     "When does the post office close?", "Until what hour can I send a letter?", "half past five"),
    ("The tide at the north pier rises by four metres in spring.",
     "By how many metres does the tide rise at the north pier?", "How much higher is high water?", "four"),
    ("The fish auction begins at five, and only members of the guild may bid.",
     "Who may bid at the fish auction?", "For whom is the morning sale of the catch open?", "members"),
    ("The chapel on the hill has a bell from Ghent, which cracked in 1956 and has been silent since.",
     "Where is the bell of the chapel from?", "In which town was the thing cast that no longer rings?", "Ghent"),
    ("The pharmacy in Market Street has a green cross and stays open all night.",
     "In which street is the pharmacy that stays open all night?", "Where do I get medicine at midnight?", "Market"),
    ("The rope works made the anchor ropes of the navy out of hemp until 1962.",
     "What were the anchor ropes of the navy made of?", "Which plant did the factory twist for the warships?", "hemp"),
    ("The hotel Compass has twelve rooms, and breakfast is served on the roof.",
     "Where does the hotel Compass serve breakfast?", "In what place do guests eat in the morning?", "roof"),
    ("The town's cat show is won almost every year by a grey tom called Admiral.",
     "What is the name of the tom that wins the cat show?", "Which pet takes the prize?", "Admiral"),
    ("The canal froze in January 1987, and people went to work on skates.",
     "In which year did the canal freeze?", "When could one walk on the waterway?", "1987"),
    ("The glassblower Rosa Kind makes blue bottles and sells them from her window.",
     "What colour are the bottles of Rosa Kind?", "Which shade has the work of the artisan?", "blue"),
    ("The fire brigade has two engines and practises on Mondays behind the gasworks.",
     "When does the fire brigade practise?", "On what evening do those who put out flames train?", "Monday"),
    ("The choir sings under Pavel Novak, who came from Brno to mend the organ and stayed.",
     "Who leads the choir, which sings under him?", "What is the conductor called?", "Novak"),
    ("The marsh behind the dyke belongs to the storks. Dogs must be kept on a lead there.",
     "To whom does the marsh behind the dyke belong?", "Which birds own the wetland?", "stork"),
    ("The salt store is the oldest house in town. It was built of oak, without a nail.",
     "What was the salt store built of?", "Which timber holds the most ancient building?", "oak"),
    ("The radio station of the harbour speaks on channel 16 and gives the weather at noon.",
     "On which channel does the radio station of the harbour speak?", "What frequency should a captain listen to?",
     "16"),
    ("The dentist Bo Lund has his rooms above the bank, on the third floor.",
     "On which floor has the dentist his rooms?", "How many stairs up are teeth mended?", "third"),
    ("The tea house has eighty kinds of tea, and the owner recommends the one from Assam.",
     "Which tea does the owner of the tea house recommend?", "What should I drink there?", "Assam"),
    ("The summer fair ends with a race of barrels, which the coopers have won since 2011.",
     "Who has won the race of barrels since 2011?", "Which craftsmen are the champions?", "cooper"),
    ("The ice factory makes ninety blocks a day and sells them to the trawlers.",
     "How many blocks does the ice factory make a day?", "What is the output of frozen water?", "ninety"),
    ("The wind mill on Goose Hill still grinds mustard, and visitors may help on Saturdays.",
     "What does the wind mill on Goose Hill grind?", "Which spice comes from the place with the sails?", "mustard"),
    ("The diver Mara Eide found a cannon under the south quay, with a lion on its barrel.",
     "Which animal is on the barrel of the cannon?", "What beast decorates the gun?", "lion"),
    ("The notary asks for two witnesses when a boat is sold.",
     "How many witnesses does the notary ask for?", "How many people must be there to buy a vessel?", "two"),
    ("The theatre has velvet seats, and the cheapest ticket costs seven crowns.",
     "How much does the cheapest ticket of the theatre cost?", "What is the lowest price to see a play?", "seven"),
    ("The lifeboat is called Bertha. Her crew of six are all volunteers.",
     "What is the lifeboat called?", "Which vessel rescues the shipwrecked?", "Bertha"),
    ("The tailor Emil Roth sews the uniforms of the pilots, with silver buttons.",
     "Which buttons does the tailor sew on the uniforms?", "What metal shines on the clothes of those who guide ships?",
     "silver"),
    ("The weather station on the breakwater measured a gust of 190 kilometres an hour in the storm of 1990.",
     "How strong was the gust that the weather station measured?", "What was the fastest air ever recorded?", "190"),
    ("The tunnel under the river is for bicycles only and has 212 lamps.",
     "How many lamps has the tunnel under the river?", "What number of lights do cyclists pass?", "212"),
    ("The honey of the lime trees in the park is sold for the orphanage in August.",
     "For whom is the honey of the lime trees sold?", "Who gets the money that bees earn?", "orphanage"),
    ("The printer Ada Falk still sets the newspaper by hand; it comes out on Thursdays.",
     "On which day does the newspaper come out?", "When can I read the local press?", "Thursday"),
    ("The shipyard is building a schooner of steel for a school in Lisbon.",
     "For a school in which city is the shipyard building a schooner?", "Where will the new sailing ship go?",
     "Lisbon"),
    ("The beach kiosk sells pancakes with cloudberry jam, a recipe of the owner's grandmother.",
     "Which jam does the beach kiosk sell with pancakes?", "What fruit goes with the sweet snack at the seaside?",
     "cloudberry"),
    ("The gate of the town is shut on one night a year, the third of October, in memory of the siege.",
     "On which day is the gate of the town shut?", "When can nobody enter the walls?", "October"),
)  # fmt: skip

NOTES = tuple(Note(*row) for row in _ROWS)
TEXT = "\n\n".join(note.text for note in NOTES)
