"""Import of instances of another cloud (docs/guide/import.md).

- `importer`: writes the instances of a document; `schema`: checks a document and converts it to nova's form.
"""
