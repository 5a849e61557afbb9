"""What an assistant's SQL may say: one statement, read by the engine's own parser, of which every node, function and
relation stands on a list. Runs in the worker: the parser is not for the gateway's process either.

It is the first layer of three, and the one with the clear words: neither the engine's settings nor the system-call
filter rely on it.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

import duckdb

from gateway.jail.sql_words import AGGREGATES, SCALARS, TABLE_FUNCTIONS, WINDOWS

MAX_SQL = 20_000
MAX_DEPTH = 200
MAX_SERIES = 10_000_000
"""Rows that range() and generate_series() may be asked for in so many words."""

_FUNCTIONS = SCALARS | AGGREGATES | WINDOWS
_QUERIES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_RELATIONS = frozenset(
    {"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT", "SHOW_REF"}
)
_MODIFIERS = frozenset({"LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "ORDER_MODIFIER", "DISTINCT_MODIFIER"})
_ORDERS = frozenset({"ORDER_DEFAULT", "ASCENDING", "DESCENDING"})
_EXPRESSIONS = frozenset(
    {"COLUMN_REF", "FUNCTION", "STAR", "CONSTANT", "SUBQUERY", "OPERATOR", "COMPARISON", "CONJUNCTION", "BETWEEN",
     "CASE", "CAST", "COLLATE", "LAMBDA", "LAMBDA_REF", "PARAMETER", "POSITIONAL_REFERENCE", "WINDOW", "DEFAULT",
     "TYPE"}
)  # fmt: skip
_CATALOG = frozenset({"tables", "columns"})
_SHOWN = '"tables"'
_OPERATOR = re.compile(r"[^0-9A-Za-z_\s]+")
_EXPLAIN = re.compile(r"(?is)\s*explain\s+(?!analyze\b|\()")
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_ENDING = re.compile(r"(?s);(?>\s|;|--[^\n]*(?:\n|$)|/\*(?>.*?\*/))*+$")
# Control characters, and those that make a text read otherwise than it is written.
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


class Refused(ValueError):
    """The statement may not run; why, in one line."""


def check(db: duckdb.DuckDBPyConnection, sql: str, views: Iterable[str]) -> str:
    """The statement that may run: `sql` without the semicolon behind it. Refused in one line otherwise."""
    if len(sql) > MAX_SQL:
        raise Refused(f"the statement has {len(sql)} characters: at most {MAX_SQL}")
    hidden = _HIDDEN.search(sql)
    if hidden:
        raise Refused(f"the statement holds the invisible character U+{ord(hidden[0]):04X}: leave it out")
    explained = _EXPLAIN.match(sql)
    text = (sql[explained.end() :] if explained else sql).strip()
    _one_statement(db, text)
    tree = _tree(db, text)
    _Walk(frozenset(views)).query(tree, frozenset(), 0)
    text = _without_semicolon(db, text, tree)
    return f"EXPLAIN {text}" if explained else text


def _without_semicolon(db: duckdb.DuckDBPyConnection, text: str, tree: Any) -> str:
    """It will stand in brackets, where no semicolon may be. What is left must say the same."""
    for bare in (_ENDING.sub("", text), text.rstrip("; \t\r\n")):
        with suppress(Refused):
            if bare != text and _tree(db, bare) == tree:
                return bare
    return text


def _tree(db: duckdb.DuckDBPyConnection, text: str) -> Any:
    told = json.loads(db.execute("select json_serialize_sql(?::VARCHAR)", [text]).fetchall()[0][0])
    if told.get("error") or len(told.get("statements", ())) != 1:
        raise Refused(f"only SELECT is answered ({_line(told.get('error_message', 'not one statement'))})")
    return told["statements"][0]["node"]


def _one_statement(db: duckdb.DuckDBPyConnection, text: str) -> None:
    try:
        found = db.extract_statements(text)
        kinds = [each.type.name for each in found]
    except Exception as error:  # the parser raises what it likes, and each of it is a refusal
        raise Refused(f"not understood: {_line(error)}") from error
    if len(kinds) != 1:
        raise Refused(f"{len(kinds)} statements: exactly one SELECT is answered")
    if kinds[0] == "MULTI":
        raise Refused("a PIVOT needs its values here: PIVOT … ON column IN ('a', 'b') USING …")
    if kinds[0] not in {"SELECT", "SELECT_STATEMENT"}:
        raise Refused(f"{kinds[0]} is not answered: only SELECT, EXPLAIN, DESCRIBE, SUMMARIZE and SHOW TABLES")


class _Walk:
    def __init__(self, views: frozenset[str]) -> None:
        self._views = views

    def query(self, node: Any, names: frozenset[str], depth: int) -> None:
        """A query, in which the common table expressions `names` are known."""
        self._known(node, _QUERIES, "inside a query")
        if node["type"] == "RECURSIVE_CTE_NODE":
            names |= {_low(node.get("cte_name", ""))}
        for each in node.get("cte_map", {}).get("map", ()):
            value = each["value"]
            body = value.get("query_node") or value.get("query", {}).get("node")
            self.query(body, names, depth + 1)
            self.any({key: rest for key, rest in value.items() if key not in {"query", "query_node"}}, names, depth + 1)
            names |= {_low(each["key"])}
        if node["type"] == "CTE_NODE":
            self.query(node["query"], names, depth + 1)
            names |= {_low(node.get("cte_name", ""))}
        skipped = {"cte_map", "query"} if node["type"] == "CTE_NODE" else {"cte_map"}
        for key, value in node.items():
            if key not in skipped:
                self.any(value, names, depth + 1)

    def any(self, node: Any, names: frozenset[str], depth: int) -> None:
        """Whatever stands below a query."""
        if depth > MAX_DEPTH:
            raise Refused("the statement is nested too deeply: take it apart")
        if isinstance(node, list):
            for each in node:
                self.any(each, names, depth + 1)
        elif isinstance(node, dict):
            self._node(node, names, depth)

    def _node(self, node: dict[str, Any], names: frozenset[str], depth: int) -> None:
        kind, family = node.get("type"), node.get("class")
        if isinstance(family, str):
            self._known({"type": family}, _EXPRESSIONS, "the expression")
            if family in {"FUNCTION", "WINDOW"}:
                self._function(node)
        elif isinstance(kind, str):
            if kind.endswith("_NODE"):
                self.query(node, names, depth + 1)
                return
            self._known(node, _RELATIONS | _MODIFIERS | _ORDERS, "the part")
            if kind == "TABLE_FUNCTION":
                self._table_function(node, names, depth)
                return
            if kind == "BASE_TABLE":
                self._relation(node, names)
            elif kind == "SHOW_REF":
                self._shown(node, names)
        for value in node.values():
            self.any(value, names, depth + 1)

    def _known(self, node: Any, known: frozenset[str], what: str) -> None:
        kind = node.get("type") if isinstance(node, dict) else None
        if kind not in known:
            raise Refused(
                f"{what} {_line(str(kind).removesuffix('_NODE'))} is not answered: only SELECT over the views"
            )

    def _function(self, node: dict[str, Any]) -> None:
        name = _plain_name(node, "function_name")
        if name not in _FUNCTIONS and not (node.get("is_operator") and _OPERATOR.fullmatch(name)):
            near = get_close_matches(name, _FUNCTIONS, 1, 0.7)
            raise Refused(f"the function {_line(name)} is not available" + (f": closest is {near[0]}" if near else ""))

    def _table_function(self, node: dict[str, Any], names: frozenset[str], depth: int) -> None:
        call = node.get("function") or {}
        name = _plain_name(call, "function_name")
        if call.get("class") != "FUNCTION" or name not in TABLE_FUNCTIONS:
            raise Refused(
                f"the table function {_line(name)} is not available: {', '.join(sorted(TABLE_FUNCTIONS))} are"
            )
        if name in {"range", "generate_series"}:
            for one in call.get("arguments", ()):
                text = str((one.get("expression") or {}).get("literal", {}).get("text", ""))
                if re.fullmatch(r"-?\d+", text) and abs(int(text)) > MAX_SERIES:
                    raise Refused(f"{name}() up to {text[:30]}: at most {MAX_SERIES} rows")
        for value in (*(part for key, part in node.items() if key != "function"), call.get("arguments")):
            self.any(value, names, depth + 1)

    def _relation(self, node: dict[str, Any], names: frozenset[str]) -> None:
        path = [_low(part) for part in (node.get("qualified_name") or {}).get("path", ())]
        if node.get("at_clause") is not None:
            raise Refused("AT is not available: all readings have their time in a column")
        if path and path[:-1] in ([], ["main"], ["memory", "main"]):
            if path[-1] in self._views or (len(path) == 1 and path[0] in names):
                return
        elif path[:-1] in (["information_schema"], ["memory", "information_schema"]) and path[-1] in _CATALOG:
            return
        name = ".".join(path)
        near = get_close_matches(path[-1] if path else "", sorted(self._views), 1, 0.5)
        raise Refused(
            f"no table {_line(name)}: " + (f"closest is {near[0]}" if near else "SHOW TABLES tells which there are")
        )

    def _shown(self, node: dict[str, Any], names: frozenset[str]) -> None:
        if node.get("query") is None and node.get("table_name") != _SHOWN:
            self._relation({"qualified_name": {"path": [str(node.get("table_name", "")).strip('"')]}}, names)


def _plain_name(node: dict[str, Any], key: str) -> str:
    name = _low(node.get(key, ""))
    path = (node.get("qualified_name") or {}).get("path") or [name]
    if len(path) > 1 or node.get("schema") or node.get("catalog") or _low(path[0]) != name:
        raise Refused(f"a function is called by its name alone: {_line('.'.join(map(str, path)))}")
    return name


def _low(name: object) -> str:
    """As the engine compares names: it knows upper and lower case of ASCII only."""
    return str(name).translate(_LOWER)


def _line(text: object) -> str:
    """In one line, and not a long one."""
    return " ".join(str(text).partition("\n\nLINE ")[0].split())[:200]
