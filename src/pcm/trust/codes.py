"""Every code of this package, with what it means: the table that refusals, reports, `pcmsvc why` and the manual use.

Serves step 6 and wherever a refusal is shown. Named after the attacks of the TUF specification (1.5.2) where it names
them. Nothing here decides; `refuse` only keeps codes and table together.
"""

from pcm.model.errors import RequestError, TrustError

REFUSALS: dict[str, str] = {
    "trust.approval": "Not enough approvers have signed this order for this client, or their approval has expired.",
    "trust.arguments": "The instruction gives the program parameters that its manifest does not allow.",
    "trust.client_too_old": "The instruction file needs a newer PCM service; it is not read half-understood.",
    "trust.clock": "This computer's clock is behind a time that signed metadata claims; nothing new runs until it is right.",
    "trust.content": "A server gave other bytes than those of the file that the packager's manifest names by its hash.",
    "trust.delegation": "A client's instruction repository delegates to further keys, which it never may.",
    "trust.dependency": "Another instruction that must come first, or a package that is required, is missing or was refused.",
    "trust.downgrade": "The package's release is older than one that was here, and no signed min_release allows going back.",
    "trust.endless_data": "A server sent more bytes than signed metadata, or the limit for this kind of file, allows.",
    "trust.equivocation": "Two different instruction files bear the same serial number.",
    "trust.expired": "The instruction, or the instruction file, was valid until a time that has passed.",
    "trust.freeze": "Metadata has expired, or is older than the site knows it to be: somebody holds newer files back.",
    "trust.malformed": "A signed document is not what it must be: damaged, nested too deeply, or of a wrong shape.",
    "trust.manifest_mismatch": "The manifest does not say what the instruction says: another package, version or release.",
    "trust.mix_and_match": "Files that do not belong together: a length, hash or version differs from what signed metadata says.",
    "trust.platform": "The package is not made for this platform.",
    "trust.request_age": "A request was signed too long ago, or in the future: the client's clock differs from the server's.",
    "trust.request_signature": "A request's signature does not fit its address, its body or the key that it names.",
    "trust.request_unsigned": "A request that only a client of the site may make is not signed.",
    "trust.rogue_root": "A root of trust that the keepers of this repository did not sign, or that belongs to another one.",
    "trust.rollback": "Older files than this client has already seen were put back.",
    "trust.unknown_client": "A request is signed with a key that no client of the site has, or has any more.",
    "trust.unknown_version": "A document is written in a major version that this PCM service does not understand.",
    "trust.unsigned": "Metadata lacks the signatures of the keys that must sign it.",
    "trust.unsigned_program": "No packager has signed this program: no manifest names it, or it was withdrawn.",
    "trust.unsupported": "The program asks for what this version of the service does not do; it is not run without that.",
    "trust.wrong_recipient": "The instruction file is made for another client.",
    "trust.wrong_site": "The document is made for another site.",
    "trust.wrong_type": "One kind of document was put in the place of another.",
}
TRANSFERS: dict[str, str] = {
    "transfer.not_found": "The server does not have the file.",
    "transfer.too_slow": "The server took longer than allowed.",
    "transfer.stale_server": "The server lacks what was signed in the last two minutes; another one, or this one later, has it.",
}


def refuse(code: str, message: str) -> TrustError:
    """Make the error for a refusal.

    Raises:
        KeyError: the code does not stand in the table.
    """
    REFUSALS[code]
    return TrustError(message, code=code)


_DOCUMENT_CODES = {"protocol.wrong_type": "trust.wrong_type", "protocol.unknown_version": "trust.unknown_version"}


def refuse_document(error: RequestError, name: str) -> TrustError:
    """Turn a parser's complaint about a signed document into a refusal."""
    return refuse(_DOCUMENT_CODES.get(error.code, "trust.malformed"), f"{name}: {error.message}")
