//! Rule by rule: what is refused, and with what words.

use lacuna_codegen::check;
use lacuna_codegen::ir::read;
use lacuna_codegen::passes::verify;

/// A producer that fetches Q and blocks of K, and consumers that multiply them, a block at a time.
const FUNC: &str = "func @f target sm_90a warps 8 {
  axis Q = 128
  axis Kv = 64
  axis D = 64
  param q : bf16[token, head, D]
  param k : bf16[token, head, D]
  param t : i32[n]
  param n : i32
  var %s : f32<Q, Kv> = 0.0
  var %other : f32<Q, Kv> = 0.0
  var %acc : f32<Q, D> = 0.0
  var %w : bf16<Q, Kv> = 0.0
  var %c : i32 = 0
  buffer $q : bf16<Q, D> x 1 ring
  buffer $k : bf16<Kv, D> x 2 ring
  buffer $once : bf16<Kv, D> x 1 ring
  buffer $own : bf16<Q, D> x 1
  partition rows Q x 8 cols Kv x 1 registers 24 and 240
  %0 = param n
  %1 = const 0
  %2 = const 1
  %3 = const 2
  %4 = add %0, %2 : i32
  %5 = element t[%1]
  %6 = lt %5, %1 : bool
  produce {
    fill $q[%1] = q[%1, %1] rows token count %0
    for %10 in %1..%0 {
      %11 = rem %10, %3 : i32
      %12 = div %10, %3 : i32
      %13 = rem %12, %3 : i32
      acquire $k[%11] phase %13
      fill $k[%11] = k[%10, %1] rows token count %0
    }
    ; produced
  }
  consume {
    %20 = shared $q[%1]
    await $q[%1] phase %1
    ; before
    for %21 in %1..%0 {
      %22 = rem %21, %3 : i32
      %23 = div %21, %3 : i32
      %24 = rem %23, %3 : i32
      %25 = shared $k[%22]
      await $k[%22] phase %24
      fence
      start %s = %20 . %25
      close
      land 0
      release $k[%22]
      %26 = read %s
    }
    ; behind
  }
}
";

/// What is said of the func with these changes.
#[track_caller]
fn says(changes: &[(&str, &str)]) -> String {
    let text = changes.iter().fold(FUNC.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "`{from}` does not stand in the func");
        text.replace(from, to)
    });
    let func = read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    verify(&func).unwrap_or_else(|error| panic!("{error}\n{text}"));
    check(&func).err().map_or_else(|| "nothing".to_owned(), |error| error.to_string())
}

#[track_caller]
fn refuses(changes: &[(&str, &str)], words: &str) {
    let said = says(changes);
    assert!(said.starts_with("internal error in check: ") && said.contains(words), "it says\n  {said}\nnot\n  {words}");
}

#[track_caller]
fn accepts(changes: &[(&str, &str)]) {
    assert_eq!(says(changes), "nothing");
}

/// A tile that comes once, awaited and multiplied behind the loop.
const FILL_ONCE: (&str, &str) = ("; produced", "fill $once[%1] = k[%1, %1] rows token count %0");
const USE_ONCE: (&str, &str) = (
    "; behind",
    "%30 = shared $once[%1] await $once[%1] phase %1 fence start %s = %20 . %30 close land 0 %31 = read %s",
);

/// A tile that the consumers copy, multiplied in the place of Q.
const COPIES: (&str, &str) = (
    "; before",
    "copy_async $own[%1] = q[%1, %1] rows token count %0 commit wait 0 publish barrier %40 = shared $own[%1]",
);
const COPIED: (&str, &str) = ("start %s = %20 . %25", "start %s = %40 . %25");

#[test]
fn what_is_in_order_passes() {
    accepts(&[]);
    accepts(&[FILL_ONCE, USE_ONCE]);
    accepts(&[COPIES, COPIED]);
    accepts(&[("fence\n", "turn fence\n"), ("close\n", "close pass\n")]);
    accepts(&[("%26 = read %s", "if %6 { %26 = read %s }")]);
}

#[test]
fn the_operation_is_named_and_how_long_the_loop_was() {
    let said = says(&[("acquire $k[%11] phase %13", "acquire $k[%11] phase %1")]);
    assert_eq!(
        said,
        "internal error in check: `acquire $k[%11] phase %1`: it waits for phase 0, and this is fill 1 of the slot, with 3 rounds"
    );
}

#[test]
fn a_slot_is_filled_when_it_is_empty() {
    refuses(&[("acquire $k[%11] phase %13", "")], "filled again, and nothing has waited until its readers");
    refuses(
        &[("%11 = rem %10, %3 : i32", "%14 = rem %10, %3 : i32 %11 = add %14, %3 : i32")],
        "it names slot 2, and the buffer has 2",
    );
    refuses(
        &[("%11 = rem %10, %3 : i32", "%11 = element t[%10]")],
        "which slot this is does not follow from the round",
    );
    refuses(
        &[("%13 = rem %12, %3 : i32", "%13 = element t[%10]")],
        "which phase this is does not follow from the round",
    );
}

#[test]
fn a_tile_is_awaited_in_its_turn_and_phase() {
    refuses(&[("phase %24", "phase %1")], "it waits for phase 0, and the slot next has fill 1");
    refuses(&[("$k[%22]", "$k[%1]")], "the producer brings the ring's tile 1 to $k[1]");
    refuses(&[("await $k[%22] phase %24", "")], "it reads $k[0], which is not awaited, or released already");
    refuses(&[FILL_ONCE], "of the 1 tiles that come to $once, 0 are awaited");
}

#[test]
fn a_tile_is_released_once_and_after_its_products() {
    let release = "release $k[%22]";
    refuses(&[(release, "")], "it waits for phase 1, and the slot which is not released yet, has fill 0");
    refuses(&[(release, "release $k[%22] release $k[%22]")], "it releases a slot that it does not hold");
    refuses(
        &[("land 0", ""), (release, "release $k[%22] land 0")],
        "the product into %s that reads the slot is in flight",
    );
}

#[test]
fn all_roles_come_to_their_end() {
    refuses(&[("for %21 in %1..%0", "for %21 in %1..%4")], "consumers wait here for what never comes");
    let drained = "fill $once[%1] = k[%1, %1] rows token count %0 acquire $once[%1] phase %2";
    refuses(&[("; produced", drained), USE_ONCE], "the producer waits here for a release that never comes");
    let error = super::passed(
        &super::CAUSAL.replace("warps 4 {", "warps 4 overlap deferred {").replace("pipelined 2", "pipelined 1"),
    );
    let error = error.expect_err("a round waits for the next one's K before it has released the V of the one before");
    assert_eq!(error, "produce: products are deferred by a stage: 2 stages or more are right");
}

#[test]
fn a_fence_stands_before_every_group_and_behind_what_touches_registers() {
    refuses(&[("fence\n", "")], "no fence stands before the first product of its group");
    refuses(&[("fence\n", "fence %27 = read %s\n")], "%s is touched between the last fence and the product");
    let fragment = "%27 = read %w fence write %w = %27 start %acc += %27 . %25";
    refuses(
        &[("fence\n", fragment), ("start %s = %20 . %25", "")],
        "%w is touched between the last fence and the product",
    );
    refuses(&[("; before", "fence"), ("      fence\n", "")], "no fence stands before the first product of its group");
}

#[test]
fn registers_in_flight_are_not_touched() {
    let read = "%26 = read %s";
    refuses(
        &[(read, ""), ("land 0", "%26 = read %s land 0")],
        "%s is touched while the product into %s that holds it is in flight",
    );
    let fragment = [("fence\n", "%27 = read %w fence\n"), ("start %s = %20 . %25", "start %acc += %27 . %25")];
    accepts(&fragment);
    let kept = ("land 0", "write %w = %27 land 0");
    refuses(&[fragment[0], fragment[1], kept], "%w is touched while the product into %acc that holds it is in flight");
}

#[test]
fn a_value_that_becomes_a_vars_content_may_be_made_there() {
    let rounded = "%28 = convert %26 : bf16<Q, Kv> land 0 write %w = %28";
    let func = |second: &'static str| {
        [
            ("%26 = read %s", "%26 = read %s %27 = read %w fence start %acc += %27 . %25 close"),
            ("release $k[%22]", ""),
            ("; behind", ""),
            ("start %acc += %27 . %25 close", second),
        ]
    };
    let ends = "start %acc += %27 . %25 close %28 = convert %26 : bf16<Q, Kv> land 0 write %w = %28 release $k[%22]";
    assert!(ends.contains(rounded));
    refuses(&func(ends), "`%28 = convert %26 : bf16<Q, Kv>`: %w is touched while the product into %acc");
    let after = "start %acc += %27 . %25 close land 0 %28 = convert %26 : bf16<Q, Kv> write %w = %28 release $k[%22]";
    accepts(&func(after));
}

#[test]
fn groups_are_well_formed() {
    refuses(&[("start %s = %20 . %25", "")], "it ends a group in which no product was started");
    refuses(&[("close\n", "\n")], "products are started whose group is not closed");
    let again = "start %s = %20 . %25 start %s = %20 . %25";
    refuses(&[("start %s = %20 . %25", again)], "the same product is in flight already");
    let first = ("    for %10", "    fill $once[%1] = k[%1, %1] rows token count %0 for %10");
    let twice = [first, ("; before", "%30 = shared $once[%1] await $once[%1] phase %1")];
    let other = ("close\n", "start %s = %20 . %30 close\n");
    refuses(&[twice[0], twice[1], other], "it sets %s, and another product into it is in flight");
    accepts(&[twice[0], twice[1], ("close\n", "start %s += %20 . %30 close\n")]);
}

#[test]
fn paths_that_meet_have_the_same_products_in_flight() {
    let ends = "land 0\n      release $k[%22]\n      %26 = read %s";
    refuses(&[(ends, "")], "the products in flight where a round ends are not those where the loop begins");
    let branch = "if %6 { fence start %other = %20 . %25 close }";
    refuses(
        &[("land 0", &format!("land 0 {branch}"))],
        "other products are in flight behind the branch than beside it",
    );
    refuses(&[("land 0", "if %6 { land 0 }")], "other products are in flight behind the branch than beside it");
    let unlanded = USE_ONCE.1.replace("land 0 %31 = read %s", "");
    refuses(&[FILL_ONCE, (USE_ONCE.0, &unlanded)], "it ends while the product into %s is in flight");
}

/// The same rounds, counted by a var, in a loop that is left where it begins.
fn endless(leaves: &str) -> [(&'static str, String); 3] {
    [
        ("for %21 in %1..%0 {", "write %c = %1 loop { %21 = read %c %27 = ge %21, %0 : bool leave %27 { }".to_owned()),
        ("land 0", format!("{leaves} land 0")),
        ("%26 = read %s", "%26 = read %s %28 = add %21, %2 : i32 write %c = %28".to_owned()),
    ]
}

#[test]
fn a_loop_is_left_with_the_same_products_in_flight_everywhere() {
    let with = |leaves: &str, behind: &str| {
        let changes = endless(leaves);
        let mut changes: Vec<(&str, &str)> = changes.iter().map(|(from, to)| (*from, to.as_str())).collect();
        changes.push(("; behind", behind));
        says(&changes)
    };
    assert_eq!(with("", ""), "nothing");
    let last = "%29 = add %21, %2 : i32 %30 = ge %29, %0 : bool";
    assert_eq!(with(&format!("{last} leave %30 {{ land 0 }}"), ""), "nothing");
    let said = with(&format!("{last} leave %30 {{ }}"), "land 0");
    assert!(said.contains("it leaves other products in flight than the loop's other ends"), "{said}");
    let said = with("%31 = element t[%21] %30 = lt %31, %0 : bool leave %30 { land 0 }", "");
    assert!(said.contains("how often it is gone through does not follow"), "{said}");
}

/// Rounds that may be of a kind of their own, which nothing says before: they do `again`, and go on to the next.
fn again(again: &str) -> String {
    let [(head, endless), (land, _), (end, count)] = endless("");
    let round = format!(
        "%41 = read %c %42 = rem %41, %3 : i32 %43 = div %41, %3 : i32 %44 = rem %43, %3 : i32 %45 = shared $k[%42]
        {again} %46 = add %41, %2 : i32 write %c = %46"
    );
    let kind = "%47 = element t[%21] %48 = lt %47, %1 : bool";
    let endless = format!("{endless} {kind} again %48 {{ {round} }}");
    says(&[(head, &endless), (land, "land 0"), (end, &count)])
}

#[test]
fn rounds_of_either_kind_do_the_same_to_others() {
    let round = ["await $k[%42] phase %44", "fence start %s = %20 . %45 close", "land 0", "release $k[%42]"];
    let with = |round: [&str; 4]| again(&round.join(" "));
    assert_eq!(with(round), "nothing");
    // What is not about order may differ.
    assert_eq!(with([round[0], round[1], "land 0 %50 = read %s write %other = %50", round[3]]), "nothing");
    let [awaits, starts, lands, releases] = round;
    let copies = "copy_async $own[%1] = q[%1, %1] rows token count %0 commit";
    let others = "it does other things to the other roles than the rest of the round";
    let behind = "it leaves other things in flight or held than the rest of the round";
    for (changed, words) in [
        (again(""), others),
        (with([awaits, starts, lands, ""]), others),
        (with([awaits, starts, "", ""]), others),
        (with([awaits, starts, "", releases]), "the product into %s that reads the slot is in flight"),
        (with([awaits, starts, lands, &format!("{releases} {releases}")]), "it releases a slot that it does not hold"),
        (with([awaits, starts, lands, &format!("{releases} {copies}")]), behind),
    ] {
        assert!(changed.contains(words), "{changed}");
    }
}

#[test]
fn a_loop_of_any_number_of_rounds_leaves_what_it_finds() {
    let rounds = |body: &str| format!("%27 = element t[%21] for %28 in %1..%27 {{ {body} }}");
    let read = "%26 = read %s";
    accepts(&[("land 0", &format!("land 0 {}", rounds("fence start %other = %20 . %25 close land 0")))]);
    let words = "the products in flight where a round ends are not those where the loop begins";
    refuses(&[("land 0", &format!("land 0 {}", rounds("fence start %other = %20 . %25 close")))], words);
    // Right in the first round, and not in the second.
    let unfenced = "start %other += %20 . %25 close land 0 %29 = read %other";
    refuses(
        &[
            (read, ""),
            ("release $k[%22]", ""),
            ("land 0", &format!("land 0 fence {} release $k[%22] %26 = read %s", rounds(unfenced))),
        ],
        "no fence stands before",
    );
}

#[test]
fn what_is_under_a_condition_is_so_for_both_roles() {
    let fill = format!("if %6 {{ {} }}", FILL_ONCE.1);
    let usage = format!("if %6 {{ {} }}", USE_ONCE.1);
    accepts(&[(FILL_ONCE.0, &fill), (USE_ONCE.0, &usage)]);
    refuses(&[(FILL_ONCE.0, &fill), USE_ONCE], "consumers wait here for what never comes");
    refuses(&[FILL_ONCE, (USE_ONCE.0, &usage)], "of the 1 tiles that come to $once, 0 are awaited");
    let inside = "%27 = element t[%21] %28 = lt %27, %1 : bool if %28 { await $k[%22] phase %24 }";
    refuses(&[("await $k[%22] phase %24", inside)], "how often it is gone through does not follow from what is known");
}

#[test]
fn rounds_repeat() {
    let stray = "%14 = read %c %15 = add %14, %3 : i32 write %c = %15
        %16 = mul %14, %1 : i32 %17 = add %16, %10 : i32 %11 = rem %17, %3 : i32";
    refuses(&[("%11 = rem %10, %3 : i32", stray)], "its state is not the same again after 4 rounds");
    let early = "%14 = const 7 %15 = lt %10, %14 : bool %11 = rem %10, %3 : i32";
    accepts(&[("%11 = rem %10, %3 : i32", early)]);
    let early = "%14 = const 70 %15 = lt %10, %14 : bool %16 = rem %12, %3 : i32 %13 = select %15, %16, %1 : i32";
    refuses(&[("%13 = rem %12, %3 : i32", early)], "which phase this is does not follow from the round");
    let from = [("for %10 in %1..%0", "for %10 in %5..%0"), ("for %21 in %1..%0", "for %21 in %5..%0")];
    refuses(&from, "which slot this is does not follow from the round");
}

#[test]
fn copies_of_consumers_are_there_before_they_are_read() {
    let without = |word: &str| (COPIES.0, COPIES.1.replace(word, ""));
    for (word, words) in [
        ("barrier", "it reads $own[0], and no barrier says that all have copied"),
        ("publish", "it reads $own[0], whose copies are not published before the barrier"),
        ("copy_async $own[%1] = q[%1, %1] rows token count %0", "it reads $own[0], to which nothing was copied"),
    ] {
        let (at, copies) = without(word);
        refuses(&[(at, &copies), COPIED], words);
    }
    let (at, copies) = without("wait 0");
    refuses(&[(at, &copies), COPIED, ("; behind", "wait 0")], "it reads $own[0], whose copies are on the way");
    let again = "copy_async $own[%1] = q[%1, %1] rows token count %0 commit wait 0";
    refuses(
        &[COPIES, COPIED, ("; behind", again)],
        "$own[0] is overwritten, and no barrier stands behind its last readers",
    );
    accepts(&[COPIES, COPIED, ("; behind", &format!("barrier {again}"))]);
    let ring = "copy_async $k[%1] = k[%1, %1] rows token count %0";
    refuses(&[("; before", ring)], "$k[0] is a ring's, which the producer fills");
    refuses(&[("; behind", &again.replace("wait 0", ""))], "it ends while copies are on the way");
    // The threads themselves see it without being told what products see.
    let (at, copies) = without("publish");
    accepts(&[(at, &format!("{copies} %41 = operand %40 : bf16<Q, D>"))]);
}

#[test]
fn each_role_does_its_own() {
    refuses(&[("; produced", "await $q[%1] phase %1")], "only consumers do this");
    refuses(&[("; before", "acquire $k[%1] phase %1")], "only the producer does this");
}

#[test]
fn a_turn_is_taken_and_passed() {
    let (turn, pass) = (("fence\n", "turn fence\n"), ("close\n", "close pass\n"));
    refuses(&[pass], "it passes a turn that it does not have");
    let twice = ("fence\n", "turn turn fence\n");
    refuses(&[twice, pass], "it waits for a turn that it has, so that nobody passes it");
    refuses(&[turn], "it ends with the turn, for which another waits");
    let alone = [("warps 8", "warps 4"), ("Q = 128", "Q = 64"), ("Q x 8", "Q x 4"), ("24 and 240", "56 and 256")];
    accepts(&alone);
    let alone: Vec<_> = alone.into_iter().chain([turn, pass]).collect();
    refuses(&alone, "a warpgroup alone takes no turns");
}

#[test]
fn registers_and_bytes_are_what_there_is() {
    let registers = "registers 24 and 240";
    refuses(&[(registers, "registers 32 and 248")], "the roles have 67584 registers, and a multiprocessor 65536");
    refuses(
        &[(registers, "registers 20 and 240")],
        "a thread has 20 registers; multiples of 8 from 24 to 256 are possible",
    );
    refuses(&[(registers, "registers 24 and 160")], "threads begin with 168 registers");
    let alone = [("warps 8", "warps 4"), ("Q = 128", "Q = 64"), ("Q x 8", "Q x 4")];
    let with = |share: &'static str| alone.into_iter().chain([(registers, share)]).collect::<Vec<_>>();
    accepts(&with("registers 40 and 120 ctas 3"));
    refuses(&with("registers 40 and 128 ctas 3"), "the roles have 21504 registers, and their threads begin with 20480");
    refuses(&[("Kv = 64", "Kv = 8192")], "1048576 bytes come, and a barrier waits for less than 1048576");
}

/// Tile after tile, with Q released in each.
const PERSIST: (&str, &str) = ("warps 8 {", "warps 8 persist {");
const RELEASE_Q: (&str, &str) = ("; behind", "release $q[%1] ; behind");

/// Phases of Q and turns of K that are counted through all tiles: by the producer in %c and %d, by consumers in %e and %f.
const COUNTS: [(&str, &str); 10] = [
    ("var %c : i32 = 0", "var %c : i32 = 0 lasts var %d : i32 = 0 lasts var %e : i32 = 0 lasts var %f : i32 = 0 lasts"),
    ("fill $q[%1]", "%50 = read %c acquire $q[%1] phase %50 fill $q[%1]"),
    ("; produced", "%51 = sub %2, %50 : i32 write %c = %51"),
    ("%11 = rem %10, %3", "%52 = read %d %11 = rem %52, %3"),
    ("%12 = div %10, %3", "%12 = div %52, %3"),
    ("fill $k[%11]", "%53 = add %52, %2 : i32 %54 = const 4 %55 = rem %53, %54 : i32 write %d = %55 fill $k[%11]"),
    ("await $q[%1] phase %1", "%60 = read %e await $q[%1] phase %60"),
    ("; behind", "%61 = sub %2, %60 : i32 write %e = %61"),
    (
        "%22 = rem %21, %3",
        "%62 = read %f %63 = add %62, %2 : i32 %64 = const 4 %65 = rem %63, %64 : i32 write %f = %65 %22 = rem %62, %3",
    ),
    ("%23 = div %21, %3", "%23 = div %62, %3"),
];

/// What says where each of Q's rows is, and that each is there.
const ROWS: (&str, &str) =
    ("produce {", "produce { %70 = iota Q %71 = broadcast %1 : i32<Q> %72 = add %70, %71 : i32<Q>");
const GATHER: (&str, &str) = ("fill $q[%1] = q[%1, %1] rows token count %0", "fill $q[%1] = q[%72, %1] count %0");

#[test]
fn rows_are_gathered_for_tile_after_tile_by_warps_of_their_own() {
    let [declared, (_, counted), counts @ ..] = COUNTS;
    // Counts of Q come before what gathers it.
    let gather =
        ("fill $q[%1] = q[%1, %1] rows token count %0", counted.replace("fill $q[%1]", GATHER.1).leak() as &str);
    let all: Vec<_> = [PERSIST, RELEASE_Q, ROWS, gather, declared].into_iter().chain(counts).collect();
    accepts(&all);
    refuses(&[ROWS, GATHER], "rows are gathered where CTAs do tile after tile, and these do one");
    let box_too =
        ("write %c = %51", "write %c = %51 acquire $q[%1] phase %51 fill $q[%1] = q[%1, %1] rows token count %0");
    let with: Vec<_> = all.iter().copied().chain([box_too]).collect();
    refuses(&with, "a ring whose rows are gathered has no boxes: no thread that fetches these fills it");
    // The warps that gather leave out the loop that fetches blocks of keys, and what it counts.
    let shared = ("write %d = %55", "write %d = %55 write %c = %1");
    let with: Vec<_> = all.iter().copied().chain([shared]).collect();
    refuses(&with, "%c is written by those alone who fill other rings, and read by all of the producer");
}

#[test]
fn tiles_of_work_follow_one_another() {
    refuses(&[PERSIST], "a tile of work ends, and $q[0] is held");
    let words = "the slot is filled again, and nothing has waited until its readers have released it";
    refuses(&[PERSIST, RELEASE_Q], words);
    let [declared, counts @ ..] = COUNTS;
    let all = |declared: (&'static str, &'static str)| -> Vec<_> {
        [PERSIST, RELEASE_Q, declared].into_iter().chain(counts).collect()
    };
    accepts(&all(declared));
    for (var, words) in [
        ("%c", "it waits for phase 0, and this is fill 1 of the slot"),
        ("%d", "it waits for phase 0, and this is fill 1 of the slot"),
        ("%e", "it waits for phase 0, and the slot next has fill 1"),
        ("%f", "the producer brings the ring's tile 1 to $k[1], with 1 rounds"),
    ] {
        let (from, to) = (format!("{var} : i32 = 0 lasts"), format!("{var} : i32 = 0"));
        let anew = declared.1.replace(&from, &to);
        refuses(&all((declared.0, anew.leak())), words);
    }
}
