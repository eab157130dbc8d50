"""WhatsApp's "Export chat": the `.txt` of Android and of the iPhone.

The parser is ours: whatstk (0.9.1) is GPL-3.0 and takes no name with a colon, chat-miner (0.6.0)
joins the lines of a message, chat-export (1.1.2) makes web pages.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Container
from datetime import date, datetime, time
from itertools import pairwise
from typing import NamedTuple

from chat.chat import GIF, LINE_END, OTHER, PHOTO, TURN, VIDEO, Chat, Message, media_word

_HALF = r"[ap]\.?\s?m\.?|오전|오후|上午|下午|午前|午後|ص|م"
_DATE = (
    r"(?P<first>\d{1,4})\s?(?P<separator>[./-])\s?(?P<second>\d{1,2})\s?(?P=separator)"
    r"\s?(?P<third>\d{1,4})\.?"
)
_TIME = (
    rf"(?:(?P<before>{_HALF})\s?)?(?P<hour>\d{{1,2}})[:.](?P<minute>\d{{2}})"
    rf"(?:[:.](?P<seconds>\d{{2}}))?(?:\s?(?P<after>{_HALF}))?"
)
_WHEN = rf"{_DATE}(?:,|،|\s(?:à|at|um|a las|às|kl\.?|om))?\s?{_TIME}"
STARTS = [  # of the iPhone, of WhatsApp Web, and of Android
    re.compile(rf"{start}(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
    for start in (rf"\[{_WHEN}\]\s?", rf"\[{_TIME},\s?{_DATE}\]\s?", rf"{_WHEN}(?:\s[-–]\s|,\s)")
]
AFTERNOON = re.compile(r"p\.?\s?m\.?|오후|下午|午後|م", re.IGNORECASE)

_OMITTED = (
    r"omitted|weggelassen|ausgelassen|ausgeschlossen|omitid[oa]|ocultad[oa]|ocult[oa]|omis(?:e|es)?"
    r"|absente?|omess[oai]|weggelaten|pomini[eę]t[oya]|пропущен[оаы]?|отсутствует|dahil edilmedi"
)
_KINDS = {
    PHOTO: r"image|bild|imagen|immagine|imagem|foto|photo|afbeelding|obraz|zdjęcie"
    r"|изображение|фото|görüntü|fotoğraf",
    VIDEO: r"video|vídeo|vidéo|wideo|видео|videonotiz|video note",
    GIF: r"gif",
    OTHER: r"audio|sticker|document|dokument|documento|documentation|contact card|kontaktkarte"
    r"|sprachnachricht|aufkleber|tarjeta de contacto|аудио|стикер|документ|ses|belge|çıkartma",
}
_KIND_WORDS = "|".join(_KINDS.values())
# `<Media omitted>`, `<Video note omitted>`; the Russian and French ones have words of their own.
ANDROID = re.compile(
    rf"<(?:[^<>]{{2,30}}\s(?:{_OMITTED})|pomini[eę]to [^<>]+|Без медиафайлов)>", re.I
)
IOS = re.compile(
    rf"^(?:(?P<kind>{_KIND_WORDS}) (?:{_OMITTED})|pominięto (?P<other>\w+))$", re.I | re.M
)
# Of any kind, where the mark before it says that WhatsApp wrote it; also behind one's own words.
_ANY = r"[\w-]+(?: [\w-]+){0,3}"
MARKED = re.compile(
    rf"\u200e(?:(?P<kind>{_ANY}) (?:{_OMITTED})(?!\w)|pominięto (?P<other>{_ANY}))", re.I
)
ATTACHED = re.compile(r"<\w[\w ]{2,20}\s?: ?(?P<file>[^<>:]+\.\w{2,5})>")  # `<attached: a.jpg>`
FILE = re.compile(  # `IMG-20201231-WA0001.jpg (file attached)`
    r"^(?P<file>[^\n()]+\.\w{2,5}) \((?:file attached|Datei angehängt|archivo adjunto"
    r"|fichier joint|file allegato|arquivo anexado|bestand bijgevoegd|plik załączony|załączono plik"
    r"|файл добавлен|dosya ekli)\)",
    re.M,
)
EDITED = re.compile(
    r"<(?:This message was edited|Diese Nachricht wurde bearbeitet|Se editó este mensaje\.?"
    r"|Ce message a été modifié|Questo messaggio è stato modificato|Mensagem editada"
    r"|Dit bericht is bewerkt|Wiadomość edytowana|Сообщение изменено|Bu mesaj düzenlendi)>",
    re.I,
)
DELETED = re.compile(
    r"(?:(?:This message was deleted|You deleted this message)(?: by admin .+)?"
    r"|Diese Nachricht wurde gelöscht|Du hast diese Nachricht gelöscht"
    r"|Se eliminó este mensaje|Eliminaste este mensaje|Ce message a été supprimé"
    r"|Vous avez supprimé ce message|Questo messaggio è stato eliminato"
    r"|Hai eliminato questo messaggio|Mensagem apagada|Você apagou esta mensagem"
    r"|Essa mensagem foi apagada|Dit bericht is verwijderd|U hebt dit bericht verwijderd"
    r"|Wiadomość usunięta|Ta wiadomość została usunięta|Данное сообщение удалено"
    r"|Вы удалили данное сообщение|Bu mesaj silindi|Bu mesajı sildiniz|null)\.?",
    re.I,
)
QUOTED = re.compile(r'"[^"]*"|„[^“”]*[“”]|“[^”]*”|«[^»]*»')  # a group's name, with any colon
# Where an Android system line has a colon, this is before it, and no name.
SYSTEM = re.compile(
    r"\b(?:changed (?:the (?:subject|group|settings)|this group's|their phone)"
    r"|created (?:the )?group|end-to-end encrypted|joined using|security code"
    r"|pinned a message|turned (?:on|off)"
    r"|hat (?:den (?:Betreff|Gruppennamen)|die Gruppe)|Ende-zu-Ende|cambió el (?:asunto|nombre)"
    r"|creó (?:el )?grupo|cifrad[oa]s? de extremo|a (?:modifié|changé) (?:le sujet|le nom|l'objet)"
    r"|a créé le groupe|chiffrés de bout|ha (?:cambiato|modificato) (?:l'oggetto|il nome)"
    r"|ha creato il gruppo|mudou o (?:assunto|nome)|criou o grupo|criptografia de ponta"
    r"|heeft (?:het onderwerp|de groep)|end-to-end-versleuteld"
    r"|zmieni(?:ł|ła|ł\(a\)) temat|utworzy(?:ł|ła|ł\(a\)) grupę"
    r"|изменил[аи]? (?:тему|название)|создал[аи]? группу)"
    r"|(?-i:(?<=\S )(?:added|removed|añadió|agregó|eliminó|a ajouté|a retiré|ha aggiunto|ha rimosso"
    r"|adicionou|removeu|dodał|usunął|usunęła|добавил|удалил|left$|salió|a quitté|ha abbandonato"
    r"|saiu|opuścił|покинул))",
    re.I,
)
# The same where the verb is the last word, behind the colon of a name: `Ana hat Team: Bo entfernt`.
SYSTEM_END = re.compile(
    r"[^:]+ (?:hat|heeft) [^:]+: .+ (?:hinzugefügt|entfernt|toegevoegd|verwijderd)\.?"
    r"|[^:]+, [^:]+: .+ kişi\w* (?:ekledi|çıkardı)\.?"
)
MARK = "\u200e"  # an iPhone sets it before all that WhatsApp wrote itself

LOOKED_AT = 20  # lines, to recognise the format
BLANKS = str.maketrans({"\u202f": " ", "\u00a0": " ", "\u2068": "", "\u2069": "", "\ufeff": ""})
EDGES = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e"  # marks of direction around a line or name
MENTION = re.compile("@\u2068~?([^\u2069\n]+)\u2069")  # @ and a contact's name, between marks
COLON = re.compile(r": |:\s*$")  # the text of a poll or an attachment may be on the next line

# Where in a date's three numbers its year, month and day are.
ORDERS = {"day first": (2, 1, 0), "month first": (2, 0, 1), "year first": (0, 1, 2)}


class Stamp(NamedTuple):
    """A date as three numbers in the file's order, its time of day, and how they are written.

    In `style` a number is 9, a year of four digits Y, and a half of the day H.
    """

    numbers: tuple[int, int, int]
    time: time
    style: str

    def moment(self, order: str) -> datetime | None:
        """Date and time; None where the order makes it no date."""
        year, month, day = (self.numbers[place] for place in ORDERS[order])
        try:
            return datetime.combine(date(year + 2000 * (year < 100), month, day), self.time)
        except ValueError:
            return None


def recognise(text: str) -> bool:
    """Whether the first turn starts as a message of WhatsApp does, or most of the first lines.

    One dated line in a dialogue does not make it an export.
    """
    lines = [line for line in _lines(text)[:LOOKED_AT] if line.strip()]
    starts = [read_start(line) for line in lines]
    stamped = len(starts) - starts.count(None)
    turns = (
        start
        for line, start in zip(lines, starts, strict=True)
        if TURN.fullmatch(start[1] if start else line)
    )
    return bool(stamped and (next(turns, True) or 2 * stamped > len(lines)))


def parse(text: str, place: str = "", name: str = "") -> Chat:
    """The messages that people sent, with notes on what was guessed or left out.

    Attachments become SAMSum's placeholders; deleted messages and system lines are left out.
    The text is one that `recognise` knows.
    """
    lines = _lines(text)
    starts = [read_start(line) for line in lines]
    stamps = [start[0] for start in starts if start]
    # The file's own style is the commonest; other stamps were pasted or written into a message.
    # That of the first counts double, for a file begins with a stamp of its own.
    style = Counter(stamp.style for stamp in [stamps[0], *stamps]).most_common(1)[0][0]
    order, guess = find_order([stamp for stamp in stamps if stamp.style == style])
    entries: list[tuple[datetime | None, list[str]]] = []  # the time, and the lines that follow it
    ahead = others = 0
    for line, start in zip(lines, starts, strict=True):
        own = start if start and start[0].style == style else None
        moment = own[0].moment(order) if own else None
        if own and (moment or not entries):
            entries.append((moment, [own[1]]))
        elif entries:
            entries[-1][1].append(line)
            others += bool(start and not own)
        else:
            ahead += bool(line.strip())
    notes = [guess] if guess else []
    if ahead:
        notes.append(f"lines before the first message, which are left out: {ahead}")
    if others:
        notes.append(f"dated lines in another style, which are taken as text: {others}")
    prefixes = _prefixes([said[0] for _, said in entries])
    messages = [_message(moment, said, prefixes) for moment, said in entries]
    # those to whom a message points with an @ may never have written
    people = tuple((person.strip(),) for person in dict.fromkeys(MENTION.findall(text)))
    return Chat(place, name, [*filter(None, messages)], people=people, notes=tuple(notes))


def read_start(line: str) -> tuple[Stamp, str] | None:
    """The stamp of a line that starts a message, and what follows it; None for any other line."""
    line = line.lstrip(EDGES)
    found = next(filter(None, (pattern.fullmatch(line) for pattern in STARTS)), None)
    if not found:
        return None
    half, hour = found["before"] or found["after"], int(found["hour"])
    if half:
        hour = hour % 12 + (12 if AFTERNOON.fullmatch(half) else 0)
    try:
        clock = time(hour, int(found["minute"]), int(found["seconds"] or 0))
    except ValueError:
        return None
    stamp = line[: found.start("rest")]
    style = re.sub(r"\d+", lambda number: "9" if len(number[0]) < 3 else "Y", stamp)
    style = style.replace(half, "H") if half else style
    numbers = int(found["first"]), int(found["second"]), int(found["third"])
    return Stamp(numbers, clock, style), found["rest"]


def find_order(stamps: list[Stamp]) -> tuple[str, str]:
    """Which order all dates are in, and a note where that is a guess.

    A year in front decides. Else the order that makes the most of them dates wins; then the one
    that runs back in time less often, for an export is in the order of sending. Where both are
    possible, 12 hours and a slash mean America.
    """
    if all(stamp.numbers[0] > 31 for stamp in stamps):
        return "year first", ""
    faults = {}
    for order in ("day first", "month first"):
        times = [stamp.moment(order) for stamp in stamps]
        dates = [when.date() for when in times if when]
        faults[order] = (times.count(None), sum(later < one for one, later in pairwise(dates)))
    if faults["day first"] != faults["month first"]:
        return min(faults, key=lambda order: faults[order]), ""
    if all(stamp.numbers[0] == stamp.numbers[1] for stamp in stamps):
        return "day first", ""
    american = all("H" in stamp.style and "/" in stamp.style for stamp in stamps)
    order = "month first" if american else "day first"
    return order, f"no date tells day from month; they are read {order}"


def _lines(text: str) -> list[str]:
    return LINE_END.split(text.translate(BLANKS))


def _turn(line: str, prefixes: Container[str] = ()) -> tuple[str, str] | None:
    """Name and text of a message's first line; None for what WhatsApp wrote."""
    name, *rest = COLON.split(line, maxsplit=1)
    quoted = any(found.start() < len(name) < found.end() for found in QUOTED.finditer(line))
    if not rest or quoted or SYSTEM.search(name) or SYSTEM_END.fullmatch(line):
        return None
    if name not in prefixes:
        return name, rest[0]
    turn = _turn(rest[0])
    return turn and (f"{name}: {turn[0]}", turn[1])


def _prefixes(lines: list[str]) -> set[str]:
    """What is no whole name: `Team`, where every message continues `Team: Anna: `.

    So that no `note: milk` becomes a name, two or more names must be in twice as many messages,
    and in all of them but for system lines.
    """
    texts = defaultdict(list)
    for name, text in filter(None, map(_turn, lines)):
        texts[name].append(text)
    prefixes = set()
    for prefix, said in texts.items():
        found = [name for name, _ in filter(None, map(_turn, said)) if name]
        names = tuple({*found})
        if 1 < len(names) <= len(found) / 2 and all(
            text.startswith(names) or SYSTEM.search(text) for text in said
        ):
            prefixes.add(prefix)
    return prefixes


def _message(moment: datetime | None, lines: list[str], prefixes: set[str]) -> Message | None:
    """What a person sent; None for what WhatsApp wrote, and where nothing was said."""
    turn = _turn(lines[0], prefixes)
    if not turn:
        return None
    text = "\n".join([turn[1], *lines[1:]])
    said = clean(text)
    if text.startswith(MARK):  # an iPhone's system line follows a name
        bare = text.replace(MARK, "").strip()
        if SYSTEM.search(bare.split("\n")[0]) or (said == bare and ":" not in QUOTED.sub("", bare)):
            return None
    name = re.sub(rf"[{EDGES}]", "", turn[0]).strip().removeprefix("~").strip()
    return Message(moment, name, said) if said and name else None


def clean(text: str) -> str | None:
    """The text of a message with its attachments as placeholders; None where nothing was said."""
    text = EDITED.sub("", text).strip()
    if DELETED.fullmatch(text.replace(MARK, "").strip()):
        return None
    text = MARKED.sub(_placeholder, text).replace(MARK, "")
    for pattern in (ATTACHED, FILE):
        text = pattern.sub(lambda found: media_word(found["file"]), text)
    return IOS.sub(_placeholder, ANDROID.sub(OTHER, text)).strip() or None


def _placeholder(found: re.Match[str]) -> str:
    """`image omitted` becomes `<file_photo>`."""
    word = found["kind"] or found["other"]
    return next((p for p, kinds in _KINDS.items() if re.fullmatch(kinds, word, re.I)), OTHER)
