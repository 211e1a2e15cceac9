//! What lists of blocks are told where their rows are not the ones that they are of.

use lacuna_dsl::choices::ListHeads;
use lacuna_dsl::prelude::*;

const KEYS: u32 = 64;

/// Everything.
#[pattern]
fn full(_q: Pos, _kv: Pos) -> Keep {
    Keep::always()
}

/// What rows that a list has see of its block is stored as if it were all that they see.
#[schedule(tune(Rows in [64], warps in [4]))]
fn whole(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, v: Values<Dv>, lists: Lists, docs: Segments) -> OutLse<Dv> {
    let choices = Choices::of_groups(None, None);
    let (i, h) = cx.grid2(lists.work::<Rows>(&choices), cx.each::<ListHeads>());
    let listed = lists.tile(i, h, &choices, &docs);
    let rows = q.gather(&listed);
    let softmax = OnlineSoftmax::new(cx, &rows);
    let (block, h) = (listed.block::<Kv>(), listed.kv_head);
    let s = cx.dot(rows.q, k.block(block, h));
    softmax.step(full().keep(s, &rows, block), v.block(block, h));
    softmax.finish()
}

/// As it should be.
#[schedule(tune(Rows in [64, 16], warps in [4, 1]))]
fn in_parts(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, v: Values<Dv>, lists: Lists, docs: Segments) -> PartLse<Dv> {
    let choices = Choices::of_groups(None, None);
    let (tile, h) = cx.grid2(lists.work::<Rows>(&choices), cx.each::<ListHeads>());
    let listed = lists.tile(tile, h, &choices, &docs);
    let rows = q.gather(&listed);
    let softmax = OnlineSoftmax::new(cx, &rows);
    let (block, h) = (listed.block::<Kv>(), listed.kv_head);
    let s = cx.dot(rows.q, k.block(block, h));
    softmax.step(full().keep(s, &rows, block), v.block(block, h));
    softmax.finish().parts(&listed)
}

/// A tile of tokens visits the blocks that one of them picked.
#[schedule(tune(Rows in [64], stages in [2], warps in [4]))]
fn many_tokens(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, v: Values<Dv>, picks: Blocks, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let softmax = OnlineSoftmax::new(cx, &rows);
    for b in cx.pipelined(picks.of::<Kv>(&rows), stages) {
        let s = cx.dot(rows.q, k.block(b, h));
        softmax.step(full().keep(s, &rows, b), v.block(b, h));
    }
    softmax.finish()
}

/// Lists of tiles of queries, for a tile of them.
#[schedule(tune(Rows in [64], stages in [2], warps in [4]))]
fn listed(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    lists: TileBlocks,
    docs: Segments,
    #[fixed] size: &TileSize,
) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let softmax = OnlineSoftmax::new(cx, &rows);
    for b in cx.pipelined(lists.of::<Kv>(&rows, h, *size), stages) {
        let s = cx.dot(rows.q, k.block(b, h));
        softmax.step(full().keep(s, &rows, b), v.block(b, h));
    }
    softmax.finish()
}

fn shape(group: u32) -> Shape {
    Shape::new(Elem::Bf16, 64, 64, group).with_block(KEYS)
}

/// Holds a refusal to its words and to the line of this file that contains `line`.
#[track_caller]
fn told<T>(planned: Result<T, lacuna_dsl::Error>, line: &str, words: &[&str]) {
    let message = planned.err().expect("this is a mistake").to_string();
    for word in words {
        assert!(message.contains(word), "not `{word}`: {message}");
    }
    let number = include_str!("lists.rs").lines().position(|text| text.contains(line)).expect("the line") + 1;
    assert!(message.contains(&format!("dsl/tests/lists.rs:{number}:")), "line {number}: {message}");
}

#[test]
fn gathered_rows_are_stored_in_parts() {
    let planned = Whole.at(shape(4)).plan(Target::SM_80, &Default::default());
    let words = ["these rows have seen one of the blocks that their tokens picked", "`.parts(..)`"];
    told(planned, "#[schedule(tune(Rows in [64], warps in [4]))]", &words);
    InParts.at(shape(4)).plan(Target::SM_80, &Default::default()).expect("parts of the same");
}

#[test]
fn a_tile_has_all_heads_of_a_token() {
    let narrow = InPartsPick { rows: 16, warps: 1 };
    let planned = InParts.at(shape(32)).plan(Target::SM_80, &narrow.to_pick());
    told(planned, "let (tile, h) =", &["a group has 32 query heads", "a tile has 16 rows"]);
}

#[test]
fn picks_are_of_one_token() {
    let planned = ManyTokens.at(shape(1)).plan(Target::SM_80, &Default::default());
    told(planned, "picks.of::<Kv>(&rows)", &["a block list is of one token", "`q.group(..)`"]);
}

#[test]
fn listed_tiles_and_blocks_are_made_of_those_of_the_schedule() {
    let plan = |rows, keys| Listed::new(TileSize { rows, keys }).at(shape(1)).plan(Target::SM_80, &Default::default());
    let line = "lists.of::<Kv>(&rows, h, *size)";
    for rows in [0, 32, 96] {
        told(
            plan(rows, KEYS),
            line,
            &[&format!("lists are of {rows} queries"), "tiles of 64 queries do not make them up"],
        );
    }
    for keys in [0, 32, 96] {
        told(
            plan(64, keys),
            line,
            &[&format!("listed blocks have {keys} keys"), "blocks of 64 keys do not make them up"],
        );
    }
    plan(192, 128).expect("three tiles and two blocks");
}
