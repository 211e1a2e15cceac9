//! The verifier, rule by rule: what it refuses, and with what words.

use lacuna_codegen::Error;
use lacuna_codegen::ir::{Binary, Builder, Const, Elem, Op, Type, read};
use lacuna_codegen::passes::{run, verify};
use lacuna_ptx::Target;

/// A body after declarations and values that most rules need.
fn text(declarations: &str, body: &str) -> String {
    format!(
        "func @f target sm_80 warps 4 {{
  axis Q = 16
  axis Kv = 64
  axis D = 32
  param q : bf16[token, head, D]
  param table : i32[n]
  param lists : i32[head, n]
  param lse : f32[token, head]
  param n : i32
  var %m : f32<Q> = -inf
  var %l : partial f32<Q> = 0.0
  var %acc : f32<Q, D> = 0.0
  buffer $k : bf16<Kv, D> x 2
  {declarations}
  %0 = param n
  %1 = const 0
  %2 = const true
  %3 = const 1.0
  %4 = load q[%0, %1] rows token count %0 : bf16<Q, D>
  %5 = load q[%0, %1] rows token count %0 : bf16<Kv, D>
  %6 = dot %4 . %5 : f32<Q, Kv>
  %7 = reduce max %6 : f32<Q>
  %8 = reduce sum %6 : partial f32<Q>
  %9 = convert %6 : bf16<Q, Kv>
  {body}
}}
"
    )
}

fn says(declarations: &str, body: &str) -> String {
    let text = text(declarations, body);
    match read(&text) {
        Ok(func) => verify(&func).err().map_or_else(|| "nothing".to_owned(), |error| error.to_string()),
        Err(error) => panic!("{error}\n{text}"),
    }
}

#[track_caller]
fn refuses(body: &str, words: &str) {
    let said = says("", body);
    assert!(said.contains(words), "of `{body}` it says\n  {said}\nnot\n  {words}");
    assert!(said.starts_with("internal error in verify: `"), "{said}");
}

#[track_caller]
fn refuses_declared(declaration: &str, words: &str) {
    let said = says(declaration, "");
    assert!(said.contains(words), "of `{declaration}` it says\n  {said}\nnot\n  {words}");
}

#[track_caller]
fn accepts(body: &str) {
    assert_eq!(says("", body), "nothing", "of `{body}`");
}

#[test]
fn what_makes_sense_passes() {
    accepts("");
    accepts("exit %2");
    accepts(
        "for %10 in %1..%0 { accumulate %acc += %9 . %5  write %m = %7 } %11 = merge max %m sum %l acc %acc scale %3",
    );
    accepts("%10 = merge max %m sum %l scale %3");
    accepts("%10 = read %l %11 = mul %10, %7 : partial f32<Q> %12 = add %11, %8 : partial f32<Q> write %l = %12");
    accepts("store lse[%0, %1] rows token count %0 = %7");
    accepts(
        "copy_async $k[%1] = q[%0, %1] rows token count %0 commit wait 0 barrier %10 = shared $k[%1] %11 = dot %4 . %10 : f32<Q, Kv>",
    );
    accepts("if %2 { %10 = broadcast %7 : f32<Q, Kv> %11 = sub %6, %10 : f32<Q, Kv> %12 = exp2 %11 : f32<Q, Kv> }");
    accepts(
        "%10 = iota Kv %11 = broadcast %10 : i32<Q, Kv> %12 = broadcast %0 : i32<Q, Kv> %13 = le %11, %12 : bool<Q, Kv>",
    );
    accepts(
        "%10 = element table[%0] %11 = segment table of %0 at %10 %12 = convert %11 : f32 %13 = fma %12, %3, %3 : f32",
    );
    accepts("%10 = iota Kv %11 = element table[%10] : i32<Kv> %12 = element lists[%0, %11] : i32<Kv>");
    accepts("%10 = iota Q %11 = broadcast %10 : i32<Q, Kv> %12 = element lse[%11, %0] : f32<Q, Kv>");
    accepts("%10 = segment lists[%0] of %0 at %0");
    accepts("%10 = convert %4 : f32<Q, D>");
}

#[test]
fn ids_are_known() {
    refuses("%10 = add %11, %0 : i32", "a value is used before it is made: %11");
    refuses("%10 = add %10, %0 : i32", "a value is used before it is made: %10");
}

#[test]
fn a_value_is_made_once_and_used_where_it_is_known() {
    refuses("%9 = convert %6 : bf16<Q, Kv>", "a value is made once: %9 is made again");
    refuses("for %0 in %1..%0 { }", "a value is made once: %0 is made again");
    refuses(
        "if %2 { %10 = neg %0 : i32 } %11 = neg %10 : i32",
        "outside of the loop or branch that makes it: what a loop",
    );
    refuses("for %10 in %1..%0 { } %11 = neg %10 : i32", "outside of the loop or branch that makes it");
    refuses("if %2 { %11 = neg %10 : i32 } %10 = neg %0 : i32", "a value is used before it is made: %10");
    accepts("if %2 { if %2 { %10 = neg %0 : i32 } }");
}

#[test]
fn a_result_has_the_type_that_follows() {
    refuses("%10 = add %0, %1 : f32", "`%10 = add %0, %1 : f32`: this makes i32: and is said to make f32");
    refuses("%10 = dot %4 . %5 : f32<Kv, Q>", "this makes f32<Q, Kv>: and is said to make f32<Kv, Q>");
    refuses("%10 = reduce sum %6 : f32<Q>", "this makes partial f32<Q>: and is said to make f32<Q>");
    refuses("%10 = iota Q : i32<Kv>", "this makes i32<Q>");
    refuses("%10 = read %m : f32<Kv>", "this makes f32<Q>");
    refuses("add %0, %1", "this makes a value: and gives it to nothing");
    refuses("merge max %m sum %l acc %acc scale %3", "this makes a value: and gives it to nothing");
    refuses("%10 = commit : i32", "this makes no value: and something is to hold it");
}

#[test]
fn operands_fit_the_operation() {
    refuses("%10 = neg %2 : bool", "a negation takes i32 or f32: this is bool");
    refuses("%10 = not %0 : i32", "a negation takes bool: this is i32");
    refuses("%10 = exp2 %0 : i32", "exp2 takes f32: this is i32");
    refuses("%10 = add %0, %3 : i32", "`add` takes i32 or f32: this is i32 and f32");
    refuses("%10 = add %4, %4 : bf16<Q, D>", "`add` takes i32 or f32: this is bf16<Q, D> and bf16<Q, D>");
    refuses("%10 = rem %3, %3 : f32", "`rem` takes i32");
    refuses("%10 = and %0, %0 : i32", "`and` takes bool");
    refuses("%10 = add %6, %7 : f32<Q, Kv>", "the axes of these operands differ: f32<Q, Kv> and f32<Q>");
    refuses("%10 = lt %2, %2 : bool", "a comparison takes i32 or f32");
    refuses("%10 = select %0, %0, %0 : i32", "a choice takes bool");
    refuses("%10 = select %2, %0, %3 : i32", "a choice takes i32: this is i32 and f32");
    refuses("%10 = select %2, %6, %6 : f32<Q, Kv>", "the axes of these operands differ: bool and f32<Q, Kv>");
    refuses("%10 = fma %0, %0, %0 : i32", "a fused multiply-add takes f32");
    refuses("%10 = convert %3 : i32", "there is no conversion to i32: this is f32");
    refuses("%10 = reduce max %7 : f32", "a reduction takes an f32 tile of two axes: this is f32<Q>");
    refuses("%10 = broadcast %6 : f32<Q, Kv>", "f32<Q, Kv> cannot be repeated along further axes");
    refuses(
        "%10 = broadcast %7 : f32<Kv, D>",
        "f32<Q> cannot be repeated along further axes: the result is f32<Kv, D>",
    );
    refuses("%10 = program_id 3", "a grid has 3 dimensions");
    refuses("%10 = param q : i32", "a number should stand here: `q` is a tensor");
}

#[test]
fn products_contract_one_axis() {
    refuses("%10 = dot %4 . %9 : f32<Q, Kv>", "these two axes cannot be contracted: bf16<Q, D> and bf16<Q, Kv>");
    refuses("%10 = dot %6 . %5 : f32<Q, D>", "a product takes bf16 or f16: this is f32<Q, Kv> and bf16<Kv, D>");
    refuses("%10 = dot %4 . %7 : f32<Q, D>", "these two axes cannot be contracted: bf16<Q, D> and f32<Q>");
    refuses("%10 = dot %4 . %4 : f32<Q, Q>", "the two axes of a tile differ");
    refuses("%10 = dot %4 . %4 : f32<Q, D>", "the rows of the two factors are one axis");
    refuses("accumulate %acc += %4 . %5", "the product is f32<Q, Kv>: and `acc` holds f32<Q, D>");
}

#[test]
fn tensors_are_indexed_in_every_dimension() {
    refuses(
        "%10 = load q[%0] rows token count %0 : bf16<Q, D>",
        "`q` has 3 dimensions, of which bf16<Q, D> spans 1: 1 indices",
    );
    refuses(
        "%10 = load q[%0, %1] rows D count %0 : bf16<Q, D>",
        "rows of `q` run along an indexed dimension: dimension 2",
    );
    refuses("%10 = load q[%0, %1] rows token count %0 : f32<Q, D>", "`q` holds bf16: the tile is f32<Q, D>");
    refuses(
        "%10 = load q[%0, %1] rows token count %0 : bf16",
        "a tile of one or two axes should stand here: this is bf16",
    );
    refuses("%10 = load q[%0, %3] rows token count %0 : bf16<Q, D>", "an index is i32: this is f32");
    refuses("%10 = load q[%0, %1] rows token count %3 : bf16<Q, D>", "a count is i32: this is f32");
    refuses("store lse[%0] rows token count %0 = %7", "`lse` has 2 dimensions, of which f32<Q> spans 0: 1 indices");
    refuses("store q[%0, %1] rows token count %0 = %6", "`q` holds bf16: the tile is f32<Q, Kv>");
    refuses("%10 = element table[%0, %1]", "`table` has 1 dimensions: 2 indices are given");
    refuses(
        "%10 = iota Kv %11 = iota Q %12 = element lists[%10, %11] : i32<Kv>",
        "an index is i32<Kv>: this is i32<Q>",
    );
    refuses("%10 = iota Kv %11 = element table[%10]", "this makes i32<Kv>: and is said to make i32");
    refuses("%10 = element q[%0, %0, %0]", "single elements are read from i32 and f32 tensors: `q` holds bf16");
    refuses("%10 = element n[%0] : i32", "a tensor should stand here: `n` is a number");
    refuses("%10 = segment lse[%0] of %0 at %0", "a table of segments is a row of an i32 tensor: `lse` holds f32 in 2");
    refuses("%10 = segment lists of %0 at %0", "`lists` holds i32 in 2 dimensions, and 0 indices say which row");
    refuses("%10 = segment lists[%3] of %0 at %0", "an index is i32: this is f32");
    refuses("%10 = segment table of %3 at %0", "a position is i32: this is f32");
}

/// Rows that are anywhere, each where the elements of index tiles lead.
#[test]
fn a_row_says_where_it_is_by_itself() {
    // From its number, through arithmetic and tables; some of the indices, or all.
    let row = "%10 = iota Q %11 = element table[%10] : i32<Q> %12 = broadcast %0 : i32<Q> %13 = rem %11, %12 : i32<Q>";
    accepts(&format!("{row} %14 = load q[%13, %0] count %0 : bf16<Q, D> store lse[%13, %10] count %0 = %7"));
    accepts(&format!("{row} %14 = load lse[%0, %13] rows token count %0 : f32<Q>"));
    // Those that there are, by their number or by a truth of each.
    accepts(&format!("{row} %14 = lt %10, %13 : bool<Q> %15 = load q[%13, %0] count %14 : bf16<Q, D>"));
    accepts(&format!("{row} %14 = lt %10, %13 : bool<Q> %15 = load q[%0, %1] rows head count %14 : bf16<Q, D>"));

    refuses(
        "%10 = load q[%0, %1] count %0 : bf16<Q, D>",
        "rows of `q` run along a dimension, or are at a tile of indices: every row would be the same",
    );
    refuses("%10 = iota Kv %11 = load q[%10, %0] count %0 : bf16<Q, D>", "an index is i32<Q>: this is i32<Kv>");
    refuses("%10 = iota Q %11 = load q[%10, %0] count %10 : bf16<Q, D>", "there are is bool<Q>: this is i32<Q>");
    let elsewhere =
        "where a row is must follow from its number, numbers that are the same for the whole CTA, and tables";
    refuses(
        "%10 = lt %7, %7 : bool<Q> %11 = iota Q %12 = load q[%11, %0] count %10 : bf16<Q, D>",
        &format!("{elsewhere}: this comes from elsewhere"),
    );
}

#[test]
fn scalars_steer() {
    refuses("for %10 in %1..%3 { }", "a bound of a loop is i32: this is f32");
    refuses("for %10 : f32 in %1..%0 { }", "a loop's index is i32: this is f32");
    refuses("if %0 { }", "a condition is bool: this is i32");
    refuses("exit %0", "a condition is bool: this is i32");
    refuses("%10 = iota Kv %11 = lt %10, %10 : bool<Kv> if %11 { }", "a condition is bool: this is bool<Kv>");
}

#[test]
fn a_cta_ends_early_at_the_top_before_it_stores() {
    refuses("if %2 { exit %2 }", "can only end early outside loops and branches");
    refuses("store lse[%0, %1] rows token count %0 = %7 exit %2", "can only end early before it stores");
    refuses("if %2 { store lse[%0, %1] rows token count %0 = %7 } exit %2", "can only end early before it stores");
}

#[test]
fn spread_sums_are_only_scaled_added_kept_and_merged() {
    let words =
        "a sum that is spread over lanes can only be scaled, added to another, kept and merged: this is partial f32<Q>";
    refuses("%10 = recip %8 : f32<Q>", words);
    refuses("%10 = tanh %8 : f32<Q>", words);
    refuses("%10 = add %8, %7 : f32<Q>", words);
    refuses("%10 = mul %8, %8 : partial f32<Q>", words);
    refuses("%10 = max %8, %8 : f32<Q>", words);
    refuses("%10 = lt %8, %7 : bool<Q>", words);
    refuses("%10 = broadcast %8 : f32<Q, Kv>", words);
    refuses("%10 = convert %8 : bf16<Q>", words);
    refuses("store lse[%0, %1] rows token count %0 = %8", words);
    refuses("write %m = %8", "what `m` holds is f32<Q>: this is partial f32<Q>");
    refuses("write %l = %7", "what `l` holds is partial f32<Q>: this is f32<Q>");
    refuses_declared("var %s : partial f32<Q> = 1.0", "a sum that is spread over lanes starts at 0");
    refuses_declared("var %s : partial f32<Q, D> = 0.0", "only an f32 sum of rows can be spread over lanes");
}

#[test]
fn a_merge_takes_one_softmax() {
    let words = "a merge takes the maxima and the spread sums of rows, and an accumulator over the same rows, all f32: these are";
    refuses("%10 = merge max %l sum %l acc %acc scale %3", words);
    refuses("%10 = merge max %m sum %m acc %acc scale %3", words);
    refuses("%10 = merge max %m sum %l acc %m scale %3", words);
    refuses("%10 = merge max %m sum %l acc %acc scale %0", "a merge's scale is f32: this is i32");
}

#[test]
fn buffers_hold_their_tiles_in_their_slots() {
    refuses("copy_async $k[%3] = q[%0, %1] rows token count %0", "a slot is i32: this is f32");
    refuses("%10 = const 2 %11 = shared $k[%10]", "`k` has 2 slots: this is slot 2");
    refuses("%10 = shared $k[%1] : bf16<Q, D>", "this makes bf16<Kv, D>: and is said to make bf16<Q, D>");
    refuses("copy_async $k[%1] = lse[%0, %1] rows token count %0", "`lse` holds f32: the tile is bf16<Kv, D>");
    refuses("%10 = operand %4 : bf16<Q, D>", "a register operand comes from a shared tile");
    accepts("%10 = shared $k[%0] %11 = operand %10 : bf16<Kv, D>");
    refuses_declared("buffer $b : bf16<Q> x 1", "a buffer holds tiles of two axes: this one bf16<Q>");
    refuses_declared("buffer $b : bf16<Q, D> x 0", "a buffer has a slot");
}

#[test]
fn whole_tiles_are_over_axes_that_no_product_has() {
    let lanes = "axis A = 100 axis Slot = 8 table $t over Slot param out : i32[m] param halves : bf16[m]";
    let accepts = |body: &str| assert_eq!(says(lanes, &format!("%10 = iota A {body}")), "nothing", "of `{body}`");
    let refuses = |body: &str, words: &str| {
        let said = says(lanes, &format!("%10 = iota A {body}"));
        assert!(said.contains(words), "of `{body}` it says\n  {said}\nnot\n  {words}");
    };
    accepts("%11 = fold sum %10 : i32 %12 = scan %10 : i32<A> %13 = total %12");
    accepts("%11 = lt %10, %10 : bool<A> %12 = fold any %11 : bool %13 = scan %11 : i32<A>");
    accepts("%11 = convert %10 : f32<A> %12 = fold min %11 : f32 %13 = fold max %11 : f32");
    accepts("set_element out[%10] = %10 where %2 set_element out[%0] = %0 where %2 set_element out[%10] = %0 where %2");
    accepts("set $t[%10] = %0 where %2 set $t[%0] = %0 where %2 %11 = get $t[%10] : i32<A> %12 = get $t[%0] : i32");

    let words = "takes a tile of one axis, which no tile of two axes has: this is";
    refuses("%11 = fold sum %7 : f32", &format!("a reduction to one scalar {words} f32<Q>"));
    refuses("%11 = scan %0 : i32", &format!("a prefix sum {words} i32"));
    refuses("%11 = iota Q set_element out[%11] = %0 where %2", &format!("a store of elements {words} i32<Q>"));
    refuses("%11 = iota Q set $t[%11] = %0 where %2", &format!("a table {words} i32<Q>"));
    refuses("%11 = fold any %10 : i32", "`any` takes bool: this is i32<A>");
    refuses("%11 = lt %10, %10 : bool<A> %12 = fold sum %11 : bool", "`sum` takes i32 or f32: this is bool<A>");
    refuses("%11 = convert %10 : f32<A> %12 = scan %11 : i32<A>", "a prefix sum takes i32: this is f32<A>");
    refuses("%11 = total %10", "a total is of a prefix sum: this is i32<A>");
    refuses("%11 = iota Slot set_element out[%10] = %11 where %2", "what is stored is i32<A>: this is i32<Slot>");
    refuses("set_element out[%10] = %3 where %2", "what is stored is i32: this is f32");
    refuses("set_element out[%10] = %10 where %0", "a condition is bool: this is i32");
    refuses("set_element out[%10, %0] = %10 where %2", "`out` has 1 dimensions: 2 indices are given");
    refuses("set_element halves[%10] = %10 where %2", "stored to i32 and f32 tensors: `halves` holds bf16");
    refuses("%11 = count_up $t[%10] where %2 : i32<A>", "one warp counts in order: this CTA has 4");
    refuses(
        "set_element out[%10] = %10 where %2 %11 = element out[%0]",
        "`out` is stored element by element, and cannot be read as well",
    );
    refuses("exit %2 set_element out[%0] = %0 where %2 exit %2", "a schedule can only end early before it stores");
}

#[test]
fn declarations_are_possible() {
    refuses_declared("param b : bool[n]", "a tensor in memory cannot hold bools");
    refuses_declared("param b : i32[]", "a tensor has a dimension");
    refuses_declared("param b : bf16", "a number given at launch is i32 or f32: this is bf16");
    refuses_declared("var %s : f32<Q> = 0", "`s` holds f32<Q>: it cannot start as 0");
    refuses_declared("var %s : f32<Q, Q> = 0.0", "the two axes of a tile differ");
    refuses_declared("var %s : f32<Q, D, Kv> = 0.0", "a tile has at most two axes");
    refuses_declared("partition rows Q x 1 cols Kv x 2", "1 by 2 warps: the CTA has 4");
    refuses_declared("partition rows Q x 1 cols Q x 4", "rows and columns are one axis");
}

#[test]
fn sizes_are_the_picks_fault() {
    let unsupported = |text: &str| match verify(&read(text).expect("a func")) {
        Err(Error::Unsupported(message)) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(unsupported("func @f target sm_80 warps 0 {}"), "a CTA of 0 warps; 1 to 32 are possible");
    assert_eq!(
        unsupported("func @f target sm_80 warps 4 { axis Kv = 0 }"),
        "Kv has 0 elements; an axis of a tile has from 1 to 65536"
    );
}

#[test]
fn a_mistake_with_a_line_is_the_authors() {
    let mut b = Builder::new("f", Target::SM_80, 4);
    let (one, yes) = (b.int(1), b.truth(true));
    b.push(Op::Binary(Binary::Add, one, yes), Type::scalar(Elem::I32));
    b.var("s", Type::scalar(Elem::F32), Const::f32(0.0));
    let line = line!() - 2;
    let Err(Error::Staging(mistakes)) = verify(&b.finish().expect("the builder does not look at pushed operations"))
    else {
        panic!("a mistake of the author's");
    };
    assert_eq!(mistakes.len(), 1);
    assert_eq!((mistakes[0].loc.line(), mistakes[0].loc.file()), (line, file!()));
    assert_eq!(mistakes[0].message, "`add` takes i32 or f32");
}

#[test]
fn a_pass_is_found_by_its_name() {
    let func = read(&text("", "")).expect("a func");
    assert_eq!(run("verify", func.clone()).expect("it makes sense").to_string(), func.to_string());
    assert!(run("verifi", func).expect_err("no such pass").to_string().contains("there are verify, "));
}

#[test]
fn the_best_of_rows_are_offered_tiles_then_settled_then_read() {
    let refuses = |body: &str, words: &str| {
        let said = says("best $best : 3 over Q", body);
        assert!(said.contains(words), "of `{body}` it says\n  {said}\nnot\n  {words}");
    };
    let accepts = |body: &str| assert_eq!(says("best $best : 3 over Q", body), "nothing", "of `{body}`");
    accepts("take $best += %6 at %1 settle $best %10 = best_column $best[2] %11 = best_score $best[0]");
    accepts(
        "for %10 in %1..%0 { take $best += %6 at %10 if %2 { settle $best %11 = best_score $best[0] clear $best } }",
    );
    accepts("settle $best %10 = best_column $best[0] clear $best take $best += %6 at %1 after %7, %10");
    refuses(
        "%10 = best_column $best[0]",
        "`best` is read while it takes scores: each lane has its own: settle it first",
    );
    refuses("settle $best %10 = best_score $best[3]", "`best` keeps 3: number 3 is none of them");
    refuses("settle $best %10 = best_score $best[0] : i32<Q>", "this makes f32<Q>: and is said to make i32<Q>");
    refuses("settle $best take $best += %6 at %1", "`best` is settled, and takes no more scores: clear it first");
    refuses("settle $best settle $best", "`best` is settled already");
    refuses("take $best += %9 at %1", "`best` is offered f32 tiles whose rows are Q: this is bf16<Q, Kv>");
    refuses("take $best += %7 at %1", "`best` is offered f32 tiles whose rows are Q: this is f32<Q>");
    refuses("take $best += %6 at %3", "a column is i32: this is f32");
    refuses("take $best += %6 at %1 after %7, %7", "a column of each row is i32<Q>: this is f32<Q>");
    refuses("take $best += %6 at %1 after %1, %1", "a score of each row is f32<Q>: this is i32");
    refuses("if %2 { settle $best }", "a loop or branch leaves `best` otherwise than it finds it");
    refuses(
        "settle $best for %10 in %1..%0 { clear $best }",
        "a loop or branch leaves `best` otherwise than it finds it",
    );
    refuses_declared("best $b : 0 over Q", "from 1 to 32 of the best of a row are kept: these are 0");
    refuses_declared("best $b : 33 over Q", "from 1 to 32 of the best of a row are kept: these are 33");
}

#[test]
fn a_loop_goes_on_with_what_it_can_know() {
    let rounds = |before: &str, again: &str| {
        format!("loop {{ leave %2 {{ }} {before} again %2 {{ {again} }} %19 = add %0, %1 : i32 }}")
    };
    for before in ["", "%10 = add %0, %1 : i32", "%10 = element table[%1]"] {
        assert_eq!(says("", &rounds(before, "%11 = neg %0 : i32 leave %2 { }")), "nothing");
    }
    refuses("again %2 { }", "what goes on is a loop: this stands in no loop's own body");
    refuses("for %10 in %1..%0 { again %2 { } }", "this stands in no loop's own body");
    refuses(&rounds("", "again %2 { }"), "this stands in no loop's own body");
    refuses("loop { leave %2 { } again %1 { } }", "a condition is bool");
    for before in ["write %l = %8", "if %2 { }", "%10 = exp2 %7 : f32<Q>", "again %2 { }"] {
        refuses(&rounds(before, ""), "is known by scalars and ends of the loop");
    }
    refuses(&rounds("%10 = add %0, %1 : i32", "%11 = neg %10 : i32"), "by vars: this reads %10");
}
