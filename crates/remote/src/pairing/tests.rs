//! What a lane says, cut and bent in every way.

use proptest::prelude::*;

use super::*;

const N: &str = "0123456789abcdef0123456789abcdef";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    exit: i32,
    out: Vec<u8>,
    err: Vec<u8>,
}

fn answer(exit: i32, out: &[u8], err: &[u8]) -> Answer {
    Answer { exit, out: out.to_vec(), err: err.to_vec() }
}

/// Both streams of a well-behaved lane.
fn transcript(answers: &[Answer]) -> (Vec<u8>, Vec<u8>) {
    let mut out = format!("welcome\n\n{N} H 1 4242 t\n").into_bytes();
    let mut err = format!("careful\n\n{N} H\n").into_bytes();
    for (i, answer) in answers.iter().enumerate() {
        out.extend(format!("\n{N} B {i} 100.{i:02}\n").bytes());
        out.extend(&answer.out);
        out.extend(format!("\n{N} E {i} {} 101.{i:02}\n", answer.exit).bytes());
        err.extend(&answer.err);
        err.extend(format!("\n{N} E {i}\n").bytes());
    }
    out.extend(format!("\n{N} Z {}\n", answers.len()).bytes());
    (out, err)
}

fn pairing(commands: usize) -> Pairing {
    let mut pairing = Pairing::new(&Nonce::of(N));
    (0..commands).for_each(|i| pairing.expect(i));
    pairing
}

fn committed(events: &[Event]) -> Vec<Answer> {
    let mut answers = Vec::new();
    for event in events {
        if let Event::Committed(c) = event {
            assert_eq!(c.index, answers.len(), "in order");
            answers.push(answer(c.done.exit, &c.done.stdout, &c.done.stderr));
        }
    }
    answers
}

fn feed(pairing: &mut Pairing, pieces: &[(Stream, &[u8])]) -> (Vec<Event>, Result<(), Garbled>) {
    let mut events = Vec::new();
    for (stream, bytes) in pieces {
        if let Err(garbled) = pairing.push(*stream, bytes, &mut events) {
            return (events, Err(garbled));
        }
    }
    (events, Ok(()))
}

fn awkward() -> Vec<Answer> {
    vec![
        answer(0, b"", b""),
        answer(1, b"no newline", b"x"),
        answer(-1, b"\n\n\n", b"\n"),
        answer(255, b"\0\xff\x01", b"\0"),
        answer(0, format!("\n{} E 4 0 1\n", "f".repeat(32)).as_bytes(), b"wrong nonce"),
        answer(0, format!("\n{N}").as_bytes(), format!("{N} E 5\n").as_bytes()),
        answer(137, b"B 6\nE 6\n", b"H\n"),
    ]
}

#[test]
fn whole_and_split_at_every_byte() {
    let answers = awkward();
    let (out, err) = transcript(&answers);
    for at in 0..out.len() {
        let mut pairing = pairing(answers.len());
        let pieces = [(Stream::Out, &out[..at]), (Stream::Err, &err[..]), (Stream::Out, &out[at..])];
        let (events, result) = feed(&mut pairing, &pieces);
        assert_eq!(result, Ok(()), "split at {at}");
        assert_eq!(committed(&events), answers, "split at {at}");
        assert_eq!(events.last(), Some(&Event::Finished));
    }
    for at in 0..err.len() {
        let mut pairing = pairing(answers.len());
        let pieces = [(Stream::Err, &err[..at]), (Stream::Out, &out[..]), (Stream::Err, &err[at..])];
        let (events, result) = feed(&mut pairing, &pieces);
        assert_eq!((result, committed(&events)), (Ok(()), answers.clone()), "split at {at}");
    }
}

#[test]
fn one_byte_at_a_time() {
    let answers = awkward();
    let (out, err) = transcript(&answers);
    let mut pairing = pairing(answers.len());
    let pieces: Vec<_> =
        out.chunks(1).map(|b| (Stream::Out, b)).chain(err.chunks(1).map(|b| (Stream::Err, b))).collect();
    let (events, result) = feed(&mut pairing, &pieces);
    assert_eq!((result, committed(&events)), (Ok(()), answers));
}

#[test]
fn the_hello_needs_both_streams_and_says_what_it_found() {
    let mut pairing = pairing(0);
    let (events, _) = feed(&mut pairing, &[(Stream::Out, format!("rc\n\n{N} H 1 77 t\n").as_bytes())]);
    assert_eq!(events, []);
    let (events, _) = feed(&mut pairing, &[(Stream::Err, format!("\n{N} H\n").as_bytes())]);
    assert_eq!(events, [Event::Hello(Hello { group: Some(77), timeout: true })]);
    for (group, found) in [("-", None), ("0", None), ("1", None), ("2", Some(2)), ("4294967295", None)] {
        let mut pairing = super::tests::pairing(0);
        let hello = format!("\n{N} H 1 {group} \n");
        let (events, result) = feed(
            &mut pairing,
            &[(Stream::Err, format!("\n{N} H\n").as_bytes()), (Stream::Out, hello.as_bytes())],
        );
        assert_eq!(result, Ok(()));
        assert_eq!(events, [Event::Hello(Hello { group: found, timeout: false })], "{group}");
    }
}

#[test]
fn nothing_is_committed_by_one_stream_alone() {
    let answers = awkward();
    let (out, err) = transcript(&answers);
    for (stream, bytes) in [(Stream::Out, &out), (Stream::Err, &err)] {
        let mut pairing = pairing(answers.len());
        let (events, _) = feed(&mut pairing, &[(stream, bytes)]);
        assert_eq!(committed(&events), []);
        assert_eq!(pairing.outstanding().count(), answers.len());
        assert!(!events.contains(&Event::Finished));
    }
}

#[test]
fn frames_out_of_place_are_garbled() {
    let hello = format!("\n{N} H 1 7 t\n");
    for bad in [
        format!("\n{N} E 0 0 1\n"),                              // before its begin
        format!("\n{N} B 1 1\n"),                                // not the next one
        format!("\n{N} B 0 1\n\n{N} B 0 1\n"),                   // twice
        format!("\n{N} B 0 1\n\n{N} E 1 0 1\n"),                 // another's end
        format!("\n{N} B 0 1\n\n{N} E 0 zero 1\n"),              // no number
        format!("\n{N} B 0 1\n\n{N} E 0 +1 1\n"),                // odd number
        format!("\n{N} B 0 1\n\n{N} E 0 0\n"),                   // too few words
        format!("\n{N} B 0 1\n\n{N} E 0 0 1 1\n"),               // too many
        format!("\n{N} B 0 1\n\n{N} E 0 0 1.\u{e9}\n"),          // not even ASCII
        format!("\n{N} B 0 1\n\n{N} Z 2\n"),                     // the end before its end
        format!("\n{N} Z 2\n"),                                  // the end before it began
        format!("\n{N} H 1 7 t\n"),                              // a second hello
        format!("\n{N} B 0 {}", "9".repeat(200)),                // no end of line
        format!("\n{N} X\n"),                                    // no such frame
        format!("\n{N} \n"),                                     // no frame at all
        format!("\n{N} B 0 1\n\n{N} E 0 99999999999999999 1\n"), // too big
    ] {
        let mut pairing = pairing(2);
        let (events, result) =
            feed(&mut pairing, &[(Stream::Out, hello.as_bytes()), (Stream::Out, bad.as_bytes())]);
        assert_eq!(result, Err(Garbled), "{bad}");
        assert_eq!(committed(&events), []);
    }
}

#[test]
fn the_true_nonce_in_an_output_forges_that_answer_at_most() {
    let mut pairing = pairing(2);
    let forged = format!("\n{N} H 1 7 t\n\n{N} B 0 1\nmine\n{N} E 0 0 1\nrest\n{N} E 0 1 1\n");
    let err = format!("\n{N} H\n\n{N} E 0\n");
    let (events, result) =
        feed(&mut pairing, &[(Stream::Err, err.as_bytes()), (Stream::Out, forged.as_bytes())]);
    assert_eq!(result, Err(Garbled), "the true end gives it away");
    assert_eq!(committed(&events), [answer(0, b"mine", b"")]);
}

#[test]
fn what_came_before_garbage_counts() {
    let mut pairing = pairing(2);
    let out = format!("\n{N} H 1 7 t\n\n{N} B 0 1\none\n{N} E 0 0 1\n\n{N} nonsense\n");
    let err = format!("\n{N} H\n\n{N} E 0\n");
    let (events, result) =
        feed(&mut pairing, &[(Stream::Err, err.as_bytes()), (Stream::Out, out.as_bytes())]);
    assert_eq!((result, committed(&events)), (Err(Garbled), vec![answer(0, b"one", b"")]));
}

#[test]
fn a_wrong_count_at_the_end_is_garbled() {
    let mut pairing = pairing(0);
    let (_, result) = feed(&mut pairing, &[(Stream::Out, format!("\n{N} H 1 7 t\n\n{N} Z 3\n").as_bytes())]);
    assert_eq!(result, Err(Garbled));
}

#[test]
fn between_commands_nothing_is_kept() {
    let mut pairing = pairing(1);
    feed(&mut pairing, &[(Stream::Out, format!("\n{N} H 1 7 t\n").as_bytes())]).1.unwrap();
    for _ in 0..100 {
        feed(&mut pairing, &[(Stream::Out, &[b'x'; 10_000])]).1.unwrap();
    }
    assert!(pairing.over(0).is_none());
    let out = format!("\n{N} B 0 1\nyes\n{N} E 0 0 1\n");
    let err = format!("\n{N} H\n\n{N} E 0\n");
    let (events, result) =
        feed(&mut pairing, &[(Stream::Out, out.as_bytes()), (Stream::Err, err.as_bytes())]);
    assert_eq!((result, committed(&events)), (Ok(()), vec![answer(0, b"yes", b"")]));
}

#[test]
fn floods_are_named() {
    for stream in [Stream::Out, Stream::Err] {
        let mut pairing = pairing(3);
        let out = format!("\n{N} H 1 7 t\n\n{N} B 0 1\n\n{N} E 0 0 1\n\n{N} B 1 1\n");
        let err = format!("\n{N} H\n\n{N} E 0\n");
        feed(&mut pairing, &[(Stream::Out, out.as_bytes()), (Stream::Err, err.as_bytes())]).1.unwrap();
        feed(&mut pairing, &[(stream, &[0; 1000])]).1.unwrap();
        assert_eq!((pairing.over(999), pairing.over(1000)), (Some(1), None));
        feed(&mut pairing, &[(Stream::Out, &[0; 1000]), (Stream::Err, &[0; 1000])]).1.unwrap();
        assert_eq!(pairing.over(2500), Some(1), "both streams count together");
    }
}

#[test]
fn the_targets_clock_measures_where_it_can() {
    for (from, to, took) in [
        ("100.00", "101.25", Some(1250)),
        ("100.9", "101.05", Some(150)),
        ("-", "101.25", None),
        ("101.25", "100.00", None),
        ("18446744073709551615.00", "-", None),
    ] {
        let mut pairing = pairing(1);
        let out = format!("\n{N} H 1 - \n\n{N} B 0 {from}\n\n{N} E 0 0 {to}\n");
        let err = format!("\n{N} H\n\n{N} E 0\n");
        let (events, result) =
            feed(&mut pairing, &[(Stream::Out, out.as_bytes()), (Stream::Err, err.as_bytes())]);
        assert_eq!(result, Ok(()));
        let Some(Event::Committed(c)) = events.last() else { panic!("{events:?}") };
        assert_eq!(c.on_target, took.map(Duration::from_millis), "{from} {to}");
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    // Likely to look like frames without being any.
    let piece = prop_oneof![
        Just(format!("\n{}", &N[..31]).into_bytes()),
        Just(format!("\n{N}").into_bytes()),
        Just(format!("{N} E 0 0 1\n").into_bytes()),
        Just(b"\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    proptest::collection::vec(piece, 0..6)
        .prop_map(|pieces| pieces.concat())
        .prop_filter("holds a frame", |all| memchr::memmem::find(all, format!("\n{N} ").as_bytes()).is_none())
}

fn cut<'a>(mut whole: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, rest) = whole.split_at((*cut).min(whole.len()));
        pieces.push(piece);
        whole = rest;
    }
    pieces.push(whole);
    pieces
}

proptest! {
    #[test]
    fn any_answers_in_any_pieces(
        answers in proptest::collection::vec((0i32..256, bytes(), bytes()), 0..8),
        cuts in proptest::collection::vec(0usize..60, 0..40),
    ) {
        let answers: Vec<_> = answers.into_iter().map(|(exit, out, err)| answer(exit, &out, &err)).collect();
        let (out, err) = transcript(&answers);
        let mut pairing = pairing(answers.len());
        // Alternating, so that the streams overtake one another.
        let (outs, errs) = (cut(&out, &cuts), cut(&err, &cuts));
        let pieces: Vec<_> = outs.iter().zip(&errs).flat_map(|(o, e)| [(Stream::Out, *o), (Stream::Err, *e)]).collect();
        let (events, result) = feed(&mut pairing, &pieces);
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(committed(&events), answers);
        prop_assert_eq!(events.last(), Some(&Event::Finished));
    }

    #[test]
    fn no_input_is_too_odd(pieces in proptest::collection::vec((any::<bool>(), bytes(), 0usize..4), 0..30)) {
        let mut pairing = pairing(3);
        for (out, bytes, frame) in pieces {
            let mut bytes = bytes;
            bytes.extend(match frame {
                0 => format!("\n{N} H 1 5 t\n"),
                1 => format!("\n{N} B 0 1.0\n"),
                2 => format!("\n{N} E 0 0 1.0\n"),
                _ => String::new(),
            }.bytes());
            let stream = if out { Stream::Out } else { Stream::Err };
            if pairing.push(stream, &bytes, &mut Vec::new()).is_err() {
                break;
            }
        }
    }

    #[test]
    fn a_stream_cut_short_commits_a_prefix(
        answers in proptest::collection::vec((0i32..256, bytes(), bytes()), 1..6),
        keep in 0usize..2000,
    ) {
        let answers: Vec<_> = answers.into_iter().map(|(exit, out, err)| answer(exit, &out, &err)).collect();
        let (out, err) = transcript(&answers);
        let mut pairing = pairing(answers.len());
        let (events, result) =
            feed(&mut pairing, &[(Stream::Err, &err[..]), (Stream::Out, &out[..keep.min(out.len())])]);
        prop_assert_eq!(result, Ok(()));
        let got = committed(&events);
        prop_assert_eq!(&answers[..got.len()], &got[..]);
        prop_assert_eq!(pairing.outstanding().count(), answers.len() - got.len());
    }
}

#[test]
fn one_stream_may_not_run_ahead_for_ever() {
    for stream in [Stream::Out, Stream::Err] {
        let mut pairing = pairing(50);
        let mut events = Vec::new();
        let frames = |i: usize| match stream {
            Stream::Out => format!("\n{N} B {i} -\n{}\n{N} E {i} 0 -\n", "x".repeat(1000)),
            Stream::Err => format!("{}\n{N} E {i}\n", "x".repeat(1000)),
        };
        pairing.push(Stream::Out, format!("\n{N} H 1 - t\n").as_bytes(), &mut events).unwrap();
        pairing.push(Stream::Err, format!("\n{N} H\n").as_bytes(), &mut events).unwrap();
        for i in 0..10 {
            pairing.push(stream, frames(i).as_bytes(), &mut events).unwrap();
            assert_eq!(pairing.over(10_000), None, "{i}");
        }
        pairing.push(stream, frames(10).as_bytes(), &mut events).unwrap();
        assert_eq!(pairing.over(10_000), Some(0), "the first that waits for its other half");
        // The other halves free what they complete.
        let other = if stream == Stream::Out { Stream::Err } else { Stream::Out };
        for i in 0..11 {
            let frames = match other {
                Stream::Out => format!("\n{N} B {i} -\n\n{N} E {i} 0 -\n"),
                Stream::Err => format!("\n{N} E {i}\n"),
            };
            pairing.push(other, frames.as_bytes(), &mut events).unwrap();
        }
        assert_eq!(pairing.over(0), None);
    }
}
