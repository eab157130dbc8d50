"""What WhatsApp itself writes into an export: placeholders, markers and system lines.

In English, German, Spanish, French, Italian, Portuguese, Dutch, Polish, Russian and Turkish.
"""

import re

from eval.chats.chat import GIF, OTHER, PHOTO, VIDEO, media_word

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
IOS = re.compile(rf"(?:(?P<kind>{_KIND_WORDS}) (?:{_OMITTED})|pominięto (?P<other>\w+))", re.I)
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
# Where an Android system line has a colon, what stands before it is no name but this.
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


def clean(text: str) -> str | None:
    """The text of a message with its attachments as placeholders; None where nothing was said."""
    text = EDITED.sub("", text).strip()
    if DELETED.fullmatch(text.replace(MARK, "").strip()):
        return None
    text = MARKED.sub(_placeholder, text).replace(MARK, "")
    text = ATTACHED.sub(lambda found: media_word(found["file"]), text)
    text = FILE.sub(lambda found: media_word(found["file"]), text)
    text = ANDROID.sub(OTHER, text)
    lines = [
        IOS.sub(_placeholder, line) if IOS.fullmatch(line) else line for line in text.split("\n")
    ]
    return "\n".join(lines).strip() or None


def is_name(name: str, line: str) -> bool:
    """Whether what a line begins with, up to its first colon, names somebody."""
    quoted = any(found.start() < len(name) < found.end() for found in QUOTED.finditer(line))
    return not (quoted or SYSTEM.search(name) or SYSTEM_END.fullmatch(line))


def is_system(text: str) -> bool:
    """Whether WhatsApp wrote the text that follows a name in an iPhone's export."""
    if not text.startswith(MARK):
        return False
    bare = text.replace(MARK, "").strip()
    if SYSTEM.search(bare.split("\n")[0]):
        return True
    return ":" not in QUOTED.sub("", bare) and clean(text) == bare


def _placeholder(found: re.Match[str]) -> str:
    """`image omitted` becomes `<file_photo>`."""
    word = found["kind"] or found["other"]
    return next((p for p, kinds in _KINDS.items() if re.fullmatch(kinds, word, re.I)), OTHER)
