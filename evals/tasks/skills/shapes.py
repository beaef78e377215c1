"""What extraction reads: domains with their fields, values, and sentence shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evals.tasks.skills.item import Wordings

Value = str | int | float


@dataclass(frozen=True, slots=True)
class Domain:
    """Things of one sort: the values of each field, and sentences that name them all."""

    name: str
    fields: Mapping[str, tuple[Value, ...]]
    shapes: Wordings


def _words(text: str) -> tuple[Value, ...]:
    return tuple(part.strip() for part in text.split(","))


_PEOPLE = _words(
    "Maria, John, Aisha, Chen, Olga, Pedro, Fatima, Liam, Noah, Emma, Ivan, Yuki, Sara, Omar, Lena,"
    "Hugo, Anna, Paul, Nina, Raj, Tom, Alice, Grace, Viktor, Marta, David, Julia, Kofi, Elena, Sam"
)
_FULL = _words(
    "Maria Lopez, John Smith, Aisha Khan, Chen Wei, Olga Ivanova, Liam Murphy, Emma Brown,"
    "Yuki Tanaka, Omar Haddad, Lena Fischer, Hugo Martin, Anna Rossi, Raj Patel, Grace Miller"
)
_CITIES = _words(
    "Rome, Paris, Tokyo, Cairo, Lima, Oslo, Berlin, Madrid, Delhi, Boston, Quito, Seoul, Dublin,"
    "Prague, Lagos, Vienna, Athens, Lisbon, Toronto, Chicago, Warsaw, Nairobi, Sydney, Hanoi"
)
_COUNTRIES = _words(
    "Italy, France, Japan, Egypt, Peru, Norway, Germany, Spain, India, Ireland, Kenya, Brazil,"
    "Canada, Mexico, Greece, Poland, Turkey, Chile, Ghana, Vietnam"
)
_JOBS = _words(
    "nurse, baker, pilot, teacher, lawyer, farmer, chef, driver, singer, doctor, painter, plumber,"
    "engineer, actor, writer, dentist"
)
_DAYS = _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
_DATES = tuple(
    f"{day} {month}"
    for day in (2, 5, 9, 12, 17, 21, 26, 30)
    for month in ("May", "June", "July", "March", "August", "October")
)
_TIMES = _words("9 am, 10:30 am, noon, 2 pm, 3:15 pm, 4:30 pm, 6 pm, 7:45 pm, 8 pm")
_PRICES: tuple[Value, ...] = (3, 5, 8, 12, 15, 19, 25, 40, 75, 120, 250, 2.5, 4.99, 9.5, 12.75, 19.99, 34.5)
_COLOURS = _words("red, blue, green, black, white, yellow, grey, purple, orange, brown")
_ITEMS = _words(
    "lamp, chair, phone, backpack, kettle, jacket, desk, bike, camera, watch, tent, mug, blanket,"
    "radio, umbrella, keyboard"
)
_BRANDS = _words("Acme, Nordo, Lumix, Bravo, Zenit, Kappa, Orion, Velo, Tesco, Mira")
_EVENTS = _words(
    "concert, workshop, book fair, wedding, marathon, jazz night, science talk, food market,chess tournament, art show"
)
_PLACES = _words(
    "City Hall, Central Park, the Grand Hotel, Room 12, the library, Green Theatre, Hall B,"
    "the old station, the school gym, Harbour House"
)
_TITLES = _words(
    "The Silent Sea, Red Morning, A Long Road, Winter Birds, The Last Key, Blue River, Night Train,"
    "The Glass House, Stone Garden, Two Brothers"
)
_GENRES = _words("crime, fantasy, romance, history, comedy, horror, science fiction, drama, travel")
_YEARS: tuple[Value, ...] = tuple(range(1950, 2025, 3))
_SMALL: tuple[Value, ...] = tuple(range(2, 13))
_AIRLINES = _words("Skyline, Air Nova, BlueJet, Polar Air, SunWings, Condora")
_RIVERS = _words("Danube, Tiber, Nile, Seine, Vistula, Thames, Elbe, Tagus, Han, Red River")

DOMAINS = (
    Domain(
        "person",
        {"name": _PEOPLE, "age": tuple(range(18, 90)), "job": _JOBS, "city": _CITIES},
        Wordings(
            train=(
                "{name} is a {age}-year-old {job} from {city}.",
                "{name}, a {job} living in {city}, is {age} years old.",
                "In {city}, {name} ({age}) works as a {job}.",
                "The {job} {name} is {age} and lives in {city}.",
                "My name is {name}, I am {age}, I live in {city} and I work as a {job}.",
            ),
            held=("{name} moved to {city} at {age} to be a {job}.",),
            test=(
                "Meet {name}: {age} years old, {job} by trade, at home in {city}.",
                "At {age}, {name} has a good life in {city} as a {job}.",
            ),
        ),
    ),
    Domain(
        "product",
        {"item": _ITEMS, "brand": _BRANDS, "color": _COLOURS, "price": _PRICES, "stock": _SMALL},
        Wordings(
            train=(
                "The {color} {item} by {brand} costs {price} dollars; {stock} are in stock.",
                "{brand} sells a {color} {item} for ${price}. We have {stock} left.",
                "For sale: {item}, {color}, made by {brand}, {price} euros, {stock} pieces.",
                "We still have {stock} of the {brand} {item} in {color} at {price} dollars each.",
            ),
            held=("A {color} {brand} {item} is {price} dollars and {stock} remain.",),
            test=(
                "Only {stock} left: the {brand} {item}, colour {color}, now {price} dollars.",
                "You pay {price} dollars for this {color} {item} from {brand}, of which we keep {stock}.",
            ),
        ),
    ),
    Domain(
        "event",
        {"event": _EVENTS, "day": _DAYS, "time": _TIMES, "place": _PLACES, "price": _PRICES},
        Wordings(
            train=(
                "The {event} is on {day} at {time} in {place}. Tickets cost {price} dollars.",
                "Join us for the {event} at {place} this {day}, {time}. Entry: {price} euros.",
                "On {day} at {time} there is a {event} at {place}; a ticket is ${price}.",
                "{place} hosts a {event} on {day}. It starts at {time} and costs {price} dollars.",
            ),
            held=("Don't miss the {event}: {day}, {time}, {place}, {price} dollars.",),
            test=(
                "For {price} dollars you can see the {event} in {place}, {day} at {time}.",
                "{day} brings a {event} to {place}. Doors open at {time}, and tickets are {price} dollars.",
            ),
        ),
    ),
    Domain(
        "booking",
        {
            "guest": _FULL,
            "hotel": _words("Astoria, Sea View, Plaza, Park Inn, Riverside, Bellevue, Alpina, Royal"),
            "room": tuple(range(101, 420, 7)),
            "nights": _SMALL,
            "arrival": _DATES,
        },
        Wordings(
            train=(
                "{guest} booked room {room} at the {hotel} for {nights} nights from {arrival}.",
                "Booking: {guest}, hotel {hotel}, room {room}, arriving {arrival}, {nights} nights.",
                "The {hotel} expects {guest} on {arrival}; room {room}, {nights} nights.",
                "{guest} will stay {nights} nights at the {hotel} in room {room}, arriving on {arrival}.",
            ),
            held=("From {arrival}, room {room} of the {hotel} is taken by {guest} for {nights} nights.",),
            test=(
                "Please reserve room {room} for {guest}, who reaches the {hotel} on {arrival} and stays {nights} nights.",
                "Hotel {hotel} confirms {nights} nights for {guest}. Arrival: {arrival}. Room: {room}.",
            ),
        ),
    ),
    Domain(
        "book",
        {"title": _TITLES, "author": _FULL, "year": _YEARS, "genre": _GENRES, "pages": tuple(range(90, 700, 13))},
        Wordings(
            train=(
                "{title} is a {genre} book by {author}, published in {year}, with {pages} pages.",
                "{author} wrote the {genre} book {title} in {year}. It has {pages} pages.",
                "In {year} {author} published {title}, {pages} pages of {genre}.",
                "The {pages}-page {genre} title {title} by {author} came out in {year}.",
            ),
            held=("{title} ({year}), {genre}, {pages} pages, was written by {author}.",),
            test=(
                "I am reading {title}, a {genre} book of {pages} pages that {author} brought out in {year}.",
                "Written by {author} and {pages} pages long, {title} appeared in {year} and belongs to {genre}.",
            ),
        ),
    ),
    Domain(
        "city",
        {
            "city": _CITIES,
            "country": _COUNTRIES,
            "population": tuple(range(20000, 990000, 35000)),
            "river": _RIVERS,
            "founded": tuple(range(1102, 1900, 23)),
        },
        Wordings(
            train=(
                "{city} is a city in {country} on the {river} with {population} people, founded in {founded}.",
                "Founded in {founded}, {city} in {country} has {population} inhabitants and lies on the {river}.",
                "The {river} flows through {city}, {country}. It was founded in {founded} and has {population} people.",
                "{population} people live in {city} ({country}), a city on the {river} founded in {founded}.",
            ),
            held=("{city}, {country}: founded {founded}, population {population}, river {river}.",),
            test=(
                "With {population} residents, {city} sits by the {river} in {country}; its history began in {founded}.",
                "In {founded} settlers on the {river} started {city}, today home to {population} people in {country}.",
            ),
        ),
    ),
    Domain(
        "order",
        {
            "customer": _PEOPLE,
            "order": tuple(range(1001, 9900, 137)),
            "item": _ITEMS,
            "quantity": _SMALL,
            "total": _PRICES,
            "date": _DATES,
        },
        Wordings(
            train=(
                "Order {order}: {customer} bought {quantity} of {item} on {date} for {total} dollars.",
                "{customer} ordered {quantity} x {item} on {date}. Order number {order}, total {total} dollars.",
                "On {date}, {customer} paid ${total} for {quantity} pieces of {item} (order {order}).",
                "Order no. {order} from {date}: item {item}, quantity {quantity}, total {total} euros, customer {customer}.",
            ),
            held=("{customer} has order {order} for {quantity} pieces of {item}, {total} dollars, {date}.",),
            test=(
                "Dear {customer}, your order {order} of {date} ({item}, quantity {quantity}) comes to {total} dollars.",
                "We sent {quantity} pieces of {item} to {customer} on {date}; order {order} was {total} dollars.",
            ),
        ),
    ),
    Domain(
        "film",
        {
            "film": _TITLES,
            "director": _FULL,
            "year": _YEARS,
            "genre": _GENRES,
            "minutes": tuple(range(80, 190, 7)),
            "rating": (6.1, 6.8, 7, 7.4, 7.9, 8, 8.3, 8.8, 9),
        },
        Wordings(
            train=(
                "{film} is a {genre} film by {director} from {year}. It lasts {minutes} minutes and is rated {rating}.",
                "{director} directed {film} in {year}, a {genre} film of {minutes} minutes rated {rating}.",
                "Rated {rating}, the {genre} film {film} ({year}, {minutes} minutes) was made by {director}.",
            ),
            held=("The {year} {genre} film {film}, {minutes} minutes, director {director}, scores {rating}.",),
            test=(
                "Tonight: {film}, {genre}, {minutes} minutes, shot by {director} in {year}, rating {rating}.",
                "With a rating of {rating}, {film} from {year} is the best {genre} film of {director}; it runs {minutes} minutes.",
            ),
        ),
    ),
    Domain(
        "flight",
        {
            "flight": tuple(f"{code}{number}" for code in ("BA", "LH", "AF", "KL") for number in range(112, 990, 89)),
            "airline": _AIRLINES,
            "from": _CITIES,
            "to": _CITIES,
            "gate": _words("A3, A12, B7, B20, C1, C15, D4, D9"),
            "time": _TIMES,
        },
        Wordings(
            train=(
                "{airline} flight {flight} from {from} to {to} leaves at {time} from gate {gate}.",
                "Flight {flight} ({airline}) goes from {from} to {to} at {time}, gate {gate}.",
                "At {time}, {airline} flies from {from} to {to}; flight {flight}, gate {gate}.",
                "Gate {gate}: {airline} {flight}, {from} to {to}, {time}.",
            ),
            held=("From gate {gate}, {flight} of {airline} departs {from} for {to} at {time}.",),
            test=(
                "Passengers of {airline} flight {flight} to {to}, leaving {from} at {time}, go to gate {gate}.",
                "My plane is {flight} with {airline}; it takes me from {from} to {to} at {time}, gate {gate}.",
            ),
        ),
    ),
    Domain(
        "pet",
        {
            "pet": _words("Rex, Bella, Milo, Luna, Max, Coco, Nala, Simba, Daisy, Rocky"),
            "animal": _words("dog, cat, rabbit, parrot, hamster, turtle, pony"),
            "age": tuple(range(1, 16)),
            "owner": _PEOPLE,
            "color": _COLOURS,
        },
        Wordings(
            train=(
                "{pet} is a {color} {animal}, {age} years old, and belongs to {owner}.",
                "{owner} has a {color} {animal} called {pet}. It is {age} years old.",
                "The {animal} of {owner} is called {pet}; it is {color} and {age} years old.",
            ),
            held=("{owner} keeps {pet}, a {age}-year-old {animal}, which is {color}.",),
            test=(
                "Lost: {pet}, a {color} {animal} aged {age}. Please call {owner}.",
                "{owner} brought the {age}-year-old {animal} {pet} to the vet; its coat is {color}.",
            ),
        ),
    ),
)
