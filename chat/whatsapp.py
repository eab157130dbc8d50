"""WhatsApp's "Export chat": the `.txt` of Android and of the iPhone.

We wrote our own parser: whatstk (0.9.1) is GPL-3.0 and does not accept names with a colon,
chat-miner (0.6.0) joins the lines of a message, and chat-export (1.1.2) makes web pages. If it is
unclear whether WhatsApp or a person wrote something, we take it for a person's.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection
from datetime import datetime, timedelta
from itertools import accumulate, groupby, pairwise

from chat.chat import GIF, LINE_END, OTHER, PHOTO, TURN, VIDEO, Chat, Message, media_word
from chat.stamps import EDGES, Stamp, find_order, read_start

MARK = "\u200e"  # iPhones put it before what WhatsApp wrote itself; some keyboards type it too

_OMITTED = (
    r"omitted|weggelassen|ausgelassen|ausgeschlossen|omitid[oa]|ocultad[oa]|ocult[oa]|omis(?:e|es)?"
    r"|absente?|omess[oai]|weggelaten|pomini[eę]t[oya]|пропущен[оаы]?|отсутствует|dahil edilmedi"
    r"|tidak disertakan|utelämna[dt]s?|udelad[t]?|utelatt|vynechán[oay]?|omisă?|jätetty pois|생략됨"
)
_KINDS = {
    PHOTO: r"image|bild|imagen|immagine|imagem|foto|photo|afbeelding|obraz|zdjęcie"
    r"|изображение|фото|görüntü|fotoğraf|gambar|billede|bilde|kuva|obrázek|imagine|이미지",
    VIDEO: r"video|vídeo|vidéo|wideo|видео|videonotiz|video note|동영상",
    GIF: r"gif",
    OTHER: r"audio|sticker|document|dokument|documento|documentation|contact card|kontaktkarte"
    r"|sprachnachricht|aufkleber|tarjeta de contacto|аудио|стикер|документ|ses|belge|çıkartma",
}
_KIND_WORDS = "|".join(_KINDS.values())
# `<Media omitted>`, with the word media in nearly all languages; `<Video note omitted>`.
ANDROID = re.compile(
    rf"(?i)<[^<>]{{2,30}}\s(?:{_OMITTED})>|<pomini[eę]to [^<>]+>|\A<(?=[^<>]{{7}})[^<>\n]{{0,99}}"
    r"(?:m[eéè]di|мед[иі]|мултим|πολυμ|מדי|وسائط|رسانه|媒|メディア|미디어|मीडिया|สื่อ|phương tiện)"
    r"[^<>\n]*>\Z"
)
IOS = re.compile(
    rf"^(?:(?P<kind>{_KIND_WORDS}) (?:{_OMITTED})|pominięto (?P<other>\w+))$", re.I | re.M
)
# Any kind, if the mark before it says that WhatsApp wrote it; also after a person's own words.
_ANY = r"[\w-]+(?: [\w-]+){0,3}"
MARKED = re.compile(
    rf"\u200e(?:(?P<kind>{_ANY}) (?:{_OMITTED})(?!\w)|pominięto (?P<other>{_ANY}))", re.I
)
# `<attached: a.jpg>`, with the mark in any language: `\u200e<a.jpg eklendi>`; `‹attached: a.jpg›`.
ATTACHED = re.compile(
    r"(?:\u200e\s?[<‹]|[<‹]\u200e|‹|<(?=\w[\w ]{2,30}\s?: ?[^<>:\n]+\.\w{2,5}>|\d{8}-))"
    r"[^<>‹›\n]*\.(?P<file>\w{2,5})(?:\s[^<>‹›.\n]*)?[>›]"
)
# `IMG-20201231-WA0001.jpg (file attached)` on the first line; after a web address, it is a remark.
FILE = re.compile(
    r"(?im)\A\u200e?[^\n]*[^\s.]\.(?P<file>(?!(?:com|org|net)\b)(?=\d*[^\W\d])\w{2,5})"
    r" \([^\W\d_][^()\d\n]{2,39}\)[^\S\n]*$"
)
EDITED = re.compile(
    r"(?i)\s?\u200e<[^<>.\n]{8,60}>\Z|<(?:This message was edited|Diese Nachricht wurde bearbeitet"
    r"|Se editó este mensaje\.?|Ce message a été modifié|Questo messaggio è stato modificato"
    r"|Mensagem editada|Dit bericht is bewerkt|Wiadomość edytowana|Сообщение изменено"
    r"|Bu mesaj düzenlendi|Pesan ini diedit|此訊息已編輯|此消息已编辑)>"
)
DELETED = re.compile(
    r"(?i)(?:(?:This message was deleted|You deleted this message)(?: by admin .+)?"
    r"|Missed (?:group )?(?:voice|video) call|Verpasster (?:Sprach|Video)anruf"
    r"|Diese Nachricht wurde gelöscht|Du hast diese Nachricht gelöscht|Se eliminó este mensaje"
    r"|Eliminaste este mensaje|Ce message a été supprimé|Vous avez supprimé ce message"
    r"|Questo messaggio è stato eliminato|Hai eliminato questo messaggio"
    r"|Mensagem (?:apagada|eliminada)|Você apagou esta mensagem|Es[st]a mensagem foi apagada"
    r"|(?:Apagou|Eliminou) esta mensagem|Dit bericht is verwijderd"
    r"|(?:U|Je) hebt dit bericht verwijderd|Wiadomość usunięta|Ta wiadomość została usunięta"
    r"|Данное сообщение удалено|Вы удалили данное сообщение|Bu mesaj silindi|Bu mesajı sildiniz"
    r"|Pesan ini (?:telah )?dihapus|Anda (?:telah )?menghapus pesan ini|Mesej ini telah dipadam"
    r"|यह (?:मैसेज|संदेश) (?:मिटाया|हटा दिया) गया(?: है)?|आपने यह (?:मैसेज|संदेश) मिटाया(?: है)?"
    r"|تم حذف هذه الرسالة|لقد حذفت هذه الرسالة|این پیام حذف شد|הודעה זו נמחקה|מחקת הודעה זו"
    r"|Det(?:ta|här) meddelande(?:t)? (?:har raderats|raderades)|Du raderade det här meddelandet"
    r"|Denne (?:besked|meldingen) (?:blev|ble) slettet|Du slettet?e? denne (?:besked|meldingen)"
    r"|Tämä viesti poistettiin|Poistit tämän viestin|Αυτό το μήνυμα διαγράφηκε"
    r"|Διαγράψατε αυτό το μήνυμα|Tato zpráva byla (?:smazána|odstraněna)"
    r"|Táto správa bola (?:odstránená|vymazaná)|Ezt az üzenetet törölték|Törölted ezt az üzenetet"
    r"|Acest mesaj a fost șters|Ați șters acest mesaj|Це повідомлення (?:було )?видалено"
    r"|Ви видалили це повідомлення|Това съобщение беше изтрито|Ova poruka je (?:iz|o)brisana"
    r"|S'ha suprimit aquest missatge|Tin nhắn này đã bị x(?:óa|oá)|Bạn đã x(?:óa|oá) tin nhắn này"
    r"|ข้อความนี้ถูกลบ(?:แล้ว)?|คุณลบข้อความนี้(?:แล้ว)?|このメッセージは削除されました"
    r"|(?:이 메시지는 )?삭제된 메시지입니다|메시지를 삭제했습니다"
    r"|(?:此消息已|您已)删除(?:此消息)?|此(?:訊息|讯息)已(?:刪除|删除|被刪除)"
    r"|您已(?:刪除|删除)此(?:訊息|讯息))[.。]?"
)
# A quoted group name, which may contain a colon.
QUOTED = re.compile(r'(?<!\S)(?:"[^"]{0,200}"|„[^“”]{0,200}[“”]|“[^”]{0,200}”|«[^»]{0,200}»)(?!\w)')
# Words of system lines: before a colon on Android (so it is not a name), anywhere on an iPhone.
SYSTEM = re.compile(
    r"\b(?:changed (?:the (?:subject|group|settings)|this group's|their phone)"
    r"|created (?:the |this )?group|end-to-end encrypted|joined using|security code"
    r"|pinned a message|turned (?:on|off)|hat (?:den (?:Betreff|Gruppennamen)|die Gruppe)"
    r"|Ende-zu-Ende|cambió el (?:asunto|nombre)|creó (?:el )?grupo|cifrad[oa]s? de extremo"
    r"|a (?:modifié|changé) (?:le sujet|le nom|l'objet)|a créé le groupe|chiffrés de bout"
    r"|ha (?:cambiato|modificato) (?:l'oggetto|il nome)|ha creato il gruppo"
    r"|mudou o (?:assunto|nome)|criou o grupo|criptografia de ponta"
    r"|heeft (?:het onderwerp|de groep)|end-to-end-versleuteld|crittografati end-to-end"
    r"|(?:zmieni|utworzy|nada)ł\S{0,9} (?:temat|grup)"
    r"|uçtan uca şifre|сквозным шифрованием|изменил[аи]? (?:тему|название)|создал[аи]? группу)"
    r"|(?<=\S )(?:added|removed|añadió|agregó|eliminó|a ajouté|a retiré|ha aggiunto|ha rimosso"
    r"|adicionou|removeu|dodał|usunął|usunęła|добавил|удалил|left$|salió|a quitté|ha abbandonato"
    r"|saiu|opuścił|покинул)"
)
# The notice that opens each chat, if its mark was lost.
NOTICE = re.compile(
    r"(?:Messages|Nachrichten|Los mensajes|Les messages|I messaggi|As mensagens)\b[^?]{20,}"
)
# System lines that end with the verb, after a name with a colon: `Ana hat Team: Bo entfernt`.
SYSTEM_END = re.compile(
    r"[^:]{1,200} (?:hat|heeft) [^:]{1,200}: .+ (?:hinzugefügt|entfernt|toegevoegd|verwijderd)\.?"
    r"|[^:]{1,200}, [^:]{1,200}: .+ kişi\w* (?:ekledi|çıkardı)\.?"
)
CALL = re.compile(r"\u200e[^\u200e\n]{2,40}[.,] ?\u200e[^\u200e\n]{1,40}")  # `Voice call. 2 min`

SAMPLE_LINES = 20  # lines, to recognise the format
BLANKS = str.maketrans({"\u202f": " ", "\u00a0": " ", "\u2068": "", "\u2069": "", "\ufeff": ""})
MENTION = re.compile("@\u2068~?([^\u2069\n]+)\u2069")  # @ and a contact's name between marks
COLON = re.compile(r": |:\s*$")  # the text of a poll or an attachment may be on the next line
TIGHT = re.compile(r"[^:\n]{1,50}(?<!\d):(?=[^\s/\d])")  # `Bob:hi`, if there is no other colon


def recognise(text: str) -> bool:
    """Return whether the first turn, or most of the first lines, start like WhatsApp messages.

    One dated line does not turn a dialogue into an export.
    """
    lines = [line for line in _lines(text)[:SAMPLE_LINES] if line.strip()]
    starts = [read_start(line) for line in lines]
    stamped = len(starts) - starts.count(None)
    pairs = zip(lines, starts, strict=True)
    turns = (start for line, start in pairs if (_turn(start[1]) if start else TURN.fullmatch(line)))
    return bool(stamped and (next(turns, True) or 2 * stamped > len(lines)))


def parse(text: str, place: str = "", name: str = "") -> Chat:
    """Return the messages that people sent, with notes on what was guessed or left out.

    Attachments become SAMSum's placeholders; deleted messages and system lines are left out.
    `recognise` must be true for the text.
    """
    lines = _lines(text)
    starts = [read_start(line) for line in lines]
    moments, guess = _moments([(n, *start) for n, start in enumerate(starts) if start])
    own_styles = {start[0].style for n, start in enumerate(starts) if start and n in moments}
    # the time, the lines of the message, and whether an iPhone wrote them
    entries: list[tuple[datetime | None, list[str], bool]] = []
    lines_before = other_style = 0
    for number, (line, start) in enumerate(zip(lines, starts, strict=True)):
        if start and number in moments:
            entries.append((moments[number], [start[1]], "[" in start[0].style[:1]))
        elif entries:
            entries[-1][1].append(line)
            other_style += bool(start and start[0].style not in own_styles)
        else:
            lines_before += bool(line.strip())
    time_pairs = pairwise(moment for moment, *_ in entries if moment)
    older = sum(earlier - later > timedelta(1) for earlier, later in time_pairs)
    notes = [guess] if guess else []
    if lines_before:
        notes.append(f"lines left out before the first message: {lines_before}")
    if other_style:
        notes.append(f"dated lines in another style, taken as text: {other_style}")
    if older:
        notes.append(f"messages a day or more older than the one before, perhaps pasted: {older}")
    # people that a message mentions with @ may never have written
    people = tuple((person.strip(),) for person in dict.fromkeys(MENTION.findall(text)))
    return Chat(place, name, _messages(entries), people=people, notes=tuple(notes))


def _moments(stamped: list[tuple[int, Stamp, str]]) -> tuple[dict[int, datetime | None], str]:
    """Return the time of each line that starts a message of this chat, and a note if it is a guess.

    The chat's own style is the most common one; the first line's counts double, as a file begins
    with its own stamp. Lines in another style were pasted or typed into a message, except those of
    a second export appended to this one: they are later, and from the same people.
    """
    styles = [stamp.style for _, stamp, _ in stamped]
    own_style = Counter([styles[0], *styles]).most_common(1)[0][0]
    order, guess = find_order([stamp for _, stamp, _ in stamped if stamp.style == own_style])
    times = {n: stamp.moment(order) for n, stamp, _ in stamped if stamp.style == own_style}
    moments = {n: when for n, when in times.items() if when or n == min(times)}
    people = {turn[0] for n, _, rest in stamped if n in moments and (turn := _turn(rest))}
    runs = [[*lines] for _, lines in groupby(stamped, key=lambda line: line[1].style)]
    earliest = (
        min((w for n, *_ in run if (w := moments.get(n))), default=datetime.max) for run in runs
    )
    limits, before = [*accumulate(reversed([*earliest]), min)], datetime.min
    for run in runs:
        limit = limits.pop()  # the earliest time in the chat's own style, from this run on
        names = {turn[0] for _, _, rest in run if (turn := _turn(rest))}
        if run[0][1].style != own_style and len(run) > 1 and names & people:
            run_order, _ = find_order([stamp for _, stamp, _ in run])
            added = [when for _, stamp, _ in run if (when := stamp.moment(run_order))]
            if added and before < added[0] and sorted(added) == added and added[-1] <= limit:
                moments |= dict(zip((n for n, _, _ in run), added, strict=False))
        before = max([before, *(w for n, *_ in run if (w := moments.get(n)))])
    return moments, guess


def _lines(text: str) -> list[str]:
    return LINE_END.split(text.translate(BLANKS))


def _turn(
    line: str, prefixes: Collection[str] = (), people: Collection[str] | None = ()
) -> tuple[str, str] | None:
    """Return the name and text of a message's first line; None for what WhatsApp wrote.

    A name among the `prefixes` extends to the next colon. Names in `people` are always accepted; if
    `people` is None, every name is.
    """
    full_name = ""
    while True:
        unquoted = QUOTED.sub(lambda quote: "x" * len(quote[0]), line)
        colon = COLON.search(unquoted) or (TIGHT.match(line) if unquoted == line else None)
        if not colon:
            return None
        name, rest = line[: colon.end()].rstrip().removesuffix(":"), line[colon.end() :]
        system = SYSTEM_END.fullmatch(line) or (SYSTEM.search(name) and name not in (people or ()))
        if people is not None and system:
            return None
        full_name += name
        if full_name not in prefixes:
            return full_name, rest
        full_name, line = f"{full_name}: ", rest


def _prefixes(lines: list[str], people: Collection[str]) -> set[str]:
    """Return what is not a whole name: `Team`, if every message continues `Team: Anna: `.

    To keep `note: milk` from becoming a name, two or more names must follow in twice as many
    messages, in all but system lines; or one name in all, in a chat of two or before WhatsApp's
    mark.
    """
    prefixes: set[str] = set()
    for _ in range(4):  # after more colons than this, the rest is text
        texts_by_name = defaultdict(list)
        for name, text in filter(None, (_turn(line, prefixes, people) for line in lines)):
            texts_by_name[name].append(text)
        new_prefixes = set()
        for prefix, texts in texts_by_name.items():
            # `look: <U+200E><attached: a.jpg>` has no second name
            bare = [re.sub(r"\u200e.*", "", text) for text in texts]
            turns = [turn for text in bare if COLON.search(text) and (turn := _turn(text))]
            names = tuple({name for name, _ in turns if name})
            if len(names) == 1:
                marked = f"{names[0]}: {MARK}"
                sure = len(texts_by_name) < 3 or any(text.startswith(marked) for text in texts)
                differ = len({text.strip() for _, text in turns}) > 1
                sure = sure and differ and names[0][0].isalpha() and not names[0][0].islower()
            else:
                sure = 1 < len(names) <= len(turns) / 2
            if sure and all(
                text.startswith(names) or (len(names) > 1 and SYSTEM.search(text)) for text in bare
            ):
                new_prefixes.add(prefix)
        if new_prefixes <= prefixes:
            break
        prefixes |= new_prefixes
    return prefixes


def _messages(entries: list[tuple[datetime | None, list[str], bool]]) -> list[Message]:
    """Return what people sent; an iPhone also puts a name before what WhatsApp wrote."""
    first_lines = [lines[0] for _, lines, _ in entries]
    name_counts = Counter(turn[0] for line in first_lines if (turn := _turn(line, (), None)))
    people = {name for name, count in name_counts.items() if count > 1}
    prefixes = _prefixes(first_lines, people)
    messages = []
    for number, (moment, lines, iphone) in enumerate(entries):
        turn = _turn(lines[0], prefixes, None if iphone else people)
        rest = "\n".join(lines[1:])
        name, text = turn or ("", "")
        name, bare = (re.sub(rf"[{EDGES}]", "", part).strip() for part in (name, text))
        body = clean(f"{text}\n{rest}" if turn else rest)
        if iphone and body and re.sub(rf"[{EDGES}]", "", body) == bare:
            system = SYSTEM.search(bare) and not bare[0].islower()
            marked = system or CALL.fullmatch(text.strip()) or bare.startswith(f"{name} ")
            if text.startswith(MARK) and marked or system and not number and NOTICE.fullmatch(bare):
                continue
        if body and (name or not turn):
            messages.append(Message(moment, name.removeprefix("~").strip(), body))
    return messages


def clean(text: str) -> str | None:
    """Return a message's text with placeholders for attachments; None if nothing was said."""
    text = EDITED.sub("", text.strip()).strip()
    if DELETED.fullmatch(text.replace(MARK, "").strip()):
        return None
    text = MARKED.sub(_placeholder, text)
    for pattern in (ATTACHED, FILE):
        text = pattern.sub(lambda match: media_word(match["file"]), text)
    return IOS.sub(_placeholder, ANDROID.sub(OTHER, text.replace(MARK, ""))).strip() or None


def _placeholder(match: re.Match[str]) -> str:
    """Return `<file_photo>` for `image omitted`, and so on."""
    word = match["kind"] or match["other"]
    return next((p for p, kinds in _KINDS.items() if re.fullmatch(kinds, word, re.I)), OTHER)
