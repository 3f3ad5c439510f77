"""A built corpus's manifest -> Croissant 1.0 JSON-LD (mlcommons.org/croissant/1.0), as mlcroissant validates it."""

from typing import Any

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
COLUMNS = {
    "id": "XXH3-128 of the text, hex",
    "text": "the document, normalised",
    "source": "name of the source in the recipe",
    "language": "ISO 639 code, und where unsure",
}
MEDIA = {"jsonl.zst": "application/jsonlines", "parquet": "application/x-parquet"}


def croissant(manifest: dict[str, Any]) -> dict[str, Any]:
    """One file object a shard, one record set over them; licences, steps and overlaps go into the description fields of RAI."""
    recipe = manifest["recipe"]
    form = recipe["output"]["format"]
    name = recipe["name"]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": recipe["description"] or f"The corpus {name}, built by farthing; see card.md.",
        "version": recipe["version"],
        "datePublished": manifest["created"][:10],
        "license": sorted({source["licence"] for source in recipe["sources"]}),
        "url": f"urn:sha256:{manifest['corpus_sha256']}",
        "citeAs": f"{name} {recipe['version']}, corpus sha256 {manifest['corpus_sha256']}",
        "creator": {"@type": "sc:Organization", "name": "built with farthing", "url": f"urn:farthing:{manifest['farthing']}"},
        "inLanguage": [code for code in manifest["language_bytes"] if code not in ("", "und")],
        "rai:dataCollection": "; ".join(_origin(source) for source in recipe["sources"]),
        "rai:dataPreprocessingProtocol": [_step(step) for step in manifest["steps"]],
        "rai:dataLimitations": [_overlap(report) for report in manifest["contamination"]],
        "rai:personalSensitiveInformation": [f"{kind}: {count} found" for kind, count in manifest["pii"].items()],
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": shard["file"],
                "name": shard["file"],
                "contentUrl": shard["file"],
                "contentSize": f"{shard['bytes']} B",
                "encodingFormat": MEDIA[form],
                "sha256": shard["sha256"],
            }
            for shard in manifest["shards"]
        ],
        "recordSet": [_record_set(shard["file"]) for shard in manifest["shards"]],
    }


def _record_set(file: str) -> dict[str, Any]:
    stem = file.split(".")[0]
    return {
        "@type": "cr:RecordSet",
        "@id": stem,
        "name": stem,
        "key": {"@id": f"{stem}/id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{stem}/{column}",
                "name": column,
                "description": meaning,
                "dataType": "sc:Text",
                "source": {"fileObject": {"@id": file}, "extract": {"column": column}},
            }
            for column, meaning in COLUMNS.items()
        ],
    }


def _origin(source: dict[str, Any]) -> str:
    given = source["origin"] or source["path"] or source["task"]["spec"]
    return f"{source['name']}: {given} ({source['licence']})"


def _step(step: dict[str, Any]) -> str:
    return f"{step['step']}: {step['documents_in']} documents in, {step['documents_out']} out"


def _overlap(report: dict[str, Any]) -> str:
    return f"{report['items_found']} of {report['items']} items of {report['set']} were found, and their documents dropped"
