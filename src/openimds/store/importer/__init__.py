"""Import of instances of another cloud (docs/guide/import.md).

- `importer`: writes the instances of a document; `schema`: checks a document and converts it to nova's form.
- `nova_export`: the script that reads instances by nova's own objects, run by the Python of nova's environment.
"""
