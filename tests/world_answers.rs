//! Every answer about numbers, times, orders and words of the world that puyu is trained on, derived again
//! from what is said, by solvers that share no code with the generators.

use puyu::world::{Fact, Form, Kind, Lang, PLACES, Person, Tools};
use puyu_tests::world::{days, each, numbers, sentence_of, stated, times};

/// The operation of an arithmetic form.
fn operation(form: Form) -> fn(u32, u32) -> u32 {
    match form {
        Form::Add | Form::TaleAdd => |x, y| x + y,
        Form::Subtract | Form::TaleSubtract => |x, y| x.max(y) - x.min(y),
        _ => |x, y| x * y,
    }
}

/// Checks every "expression = value" of a text.
fn check_equations(text: &str) {
    let allowed = |c: char| c.is_ascii_digit() || "+-×=".contains(c);
    for equation in text.split(|c| !allowed(c)).filter(|s| s.contains('=')) {
        let (left, right) = equation.split_once('=').unwrap();
        let value: i64 = match left.split_once('×') {
            Some((x, y)) => x.parse::<i64>().unwrap() * y.parse::<i64>().unwrap(),
            None => {
                let signed = left.replace('-', "+-");
                signed.split('+').map(|x| x.parse::<i64>().unwrap()).sum()
            }
        };
        assert_eq!(value.to_string(), right, "{equation} in {text}");
    }
}

#[test]
fn sums_and_their_steps_are_right() {
    each(Kind::Arithmetic, 400, |p, _| {
        let turn = p.last();
        let operands = numbers(&turn.question);
        assert_eq!(operands.len(), 2, "{}", turn.question);
        let result = operation(p.form)(operands[0], operands[1]);
        assert_eq!(turn.answer, result.to_string(), "{}", turn.question);
        check_equations(&turn.steps);
        // Written out, the last digits of the steps are the answer.
        let digits: Vec<String> = turn
            .steps
            .split([';', '；'])
            .map(|s| {
                let value = s.split('=').next_back().unwrap();
                numbers(value)[0].to_string()
            })
            .collect();
        let (top, low) = digits.split_last().unwrap();
        let read = low.iter().rev().fold(top.clone(), |n, d| n + &d[d.len() - 1..]);
        assert_eq!(
            read.trim_start_matches('0'),
            turn.answer.trim_start_matches('0'),
            "{}",
            turn.steps
        );
    });
}

#[test]
fn calls_compute_and_are_made_where_a_calculator_is() {
    each(Kind::Tool, 300, |p, _| {
        let turn = p.last();
        let offered = matches!(p.tools, Tools::Calculator | Tools::Both);
        match &turn.call {
            Some(call) => {
                assert!(offered);
                let (x, sign, y) = {
                    let words: Vec<&str> = call.expression.split(' ').collect();
                    (
                        words[0].parse::<u32>().unwrap(),
                        words[1].to_owned(),
                        words[2].parse::<u32>().unwrap(),
                    )
                };
                let result = match sign.as_str() {
                    "+" => x + y,
                    "-" => x - y,
                    _ => x * y,
                };
                assert_eq!(call.result, result.to_string());
                assert_eq!(turn.answer, call.result);
                let asked = numbers(&turn.question);
                assert_eq!(operation(p.form)(asked[0], asked[1]), result, "{}", turn.question);
            }
            None if offered => assert!(!p.facts.is_empty(), "a sum beside a calculator is called"),
            None => check_equations(&turn.steps),
        }
    });
}

/// Minutes of a span such as "1 hour 45 minutes" or "1小时45分钟" in a text.
fn span(text: &str) -> u32 {
    let text = text.replace("小时", " hour ").replace("分钟", " minute ");
    let words: Vec<String> = text
        .split(|c: char| !c.is_ascii_alphanumeric() && c != ':')
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect();
    let unit =
        |w: &str| if w.starts_with("hour") { 60 } else { u32::from(w.starts_with("minute")) };
    words.windows(2).map(|w| w[0].parse::<u32>().unwrap_or(0) * unit(&w[1])).sum()
}

#[test]
fn clocks_are_right() {
    each(Kind::Clock, 400, |p, _| {
        let turn = p.last();
        let said = times(&turn.question);
        check_equations(&turn.steps);
        match p.form {
            Form::TimeAfter => {
                assert_eq!(times(&turn.answer)[0], said[0] + span(&turn.question), "{p:?}")
            }
            Form::TimeBefore => {
                assert_eq!(times(&turn.answer)[0], said[0] - span(&turn.question), "{p:?}")
            }
            _ => assert_eq!(span(&turn.answer), said[1] - said[0], "{p:?}"),
        }
        assert!(times(&turn.answer).iter().all(|t| *t < 1440));
    });
}

#[test]
fn days_are_right() {
    each(Kind::Days, 300, |p, _| {
        let turn = p.last();
        let said = days(p.lang, &turn.question);
        let n = numbers(&turn.question).first().map_or(0, |n| *n as usize);
        match p.form {
            Form::DayAfter => assert_eq!(days(p.lang, &turn.answer), [(said[0] + n) % 7], "{p:?}"),
            Form::DayBefore => {
                assert_eq!(days(p.lang, &turn.answer), [(said[0] + 14 - n) % 7], "{p:?}")
            }
            _ => assert_eq!(turn.answer, ((said[1] + 7 - said[0]) % 7).to_string(), "{p:?}"),
        }
    });
}

#[test]
fn orders_and_comparisons_are_right() {
    each(Kind::Sorting, 300, |p, _| {
        let turn = p.last();
        let down = matches!(p.form, Form::SortDown | Form::SortOld);
        if p.facts.is_empty() {
            let mut all = numbers(&turn.question);
            all.sort_unstable();
            if down {
                all.reverse();
            }
            assert_eq!(numbers(&turn.answer), all, "{p:?}");
            return;
        }
        let mut all = p.facts.clone();
        all.sort_by_key(|f| if down { usize::MAX - f.v } else { f.v });
        let names: Vec<&str> = all.iter().map(|f| Person(f.a).name(p.lang)).collect();
        assert_eq!(turn.answer, names.join(p.lang.pick(", ", "、")));
        stated(p);
    });
    each(Kind::Comparing, 300, |p, _| {
        let turn = p.last();
        match p.form {
            Form::Bigger => {
                assert_eq!(turn.answer, numbers(&turn.question).iter().max().unwrap().to_string())
            }
            Form::Smaller => {
                assert_eq!(turn.answer, numbers(&turn.question).iter().min().unwrap().to_string())
            }
            Form::Most => {
                // Nobody stands on the greater side of the first, or on the lesser side of the last.
                let edges: Vec<(&str, &str)> =
                    p.context.iter().map(|s| comparison(p.lang, s)).collect();
                let top = edges.iter().all(|(_, lesser)| *lesser != turn.answer);
                let last = edges.iter().all(|(greater, _)| *greater != turn.answer);
                assert!(top != last, "{p:?}");
                let greatest =
                    ["tallest", "heaviest", "fastest", "strongest", "最高", "最重", "最快", "最强"];
                assert_eq!(greatest.iter().any(|w| turn.question.contains(w)), top, "{p:?}");
            }
            _ => {
                let asked =
                    p.facts.iter().filter(|f| turn.question.contains(Person(f.a).name(p.lang)));
                let best = match p.form {
                    Form::Younger => asked.min_by_key(|f| f.v),
                    _ => asked.max_by_key(|f| f.v),
                };
                assert_eq!(turn.answer, Person(best.unwrap().a).name(p.lang), "{p:?}");
                stated(p);
            }
        }
    });
}

/// What is sorted is put in place one after another: each round is the one before with one more, in order.
/// What is compared stands side by side, and the last is the answer.
#[test]
fn orders_are_made_step_by_step() {
    each(Kind::Sorting, 300, |p, _| {
        let turn = p.last();
        let (colon, comma) = p.lang.pick((": ", ", "), ("：", "、"));
        let note = turn.steps.trim_end_matches(['.', '。']).split_once(colon).unwrap().1;
        let rounds = note.split(['；', ';']).map(|round| round.trim().split(comma).collect());
        let rounds: Vec<Vec<&str>> = rounds.collect();
        for (i, round) in rounds.iter().enumerate() {
            assert_eq!(round.len(), i + 1, "{p:?}");
            // Numbers of one length are in order as texts are.
            let rises = rounds[rounds.len() - 1].is_sorted();
            let ordered = if rises { round.is_sorted() } else { round.iter().rev().is_sorted() };
            assert!(ordered, "{p:?}");
            let before = i.checked_sub(1).map_or(&[][..], |i| &rounds[i]);
            assert!(before.iter().all(|item| round.contains(item)), "{p:?}");
        }
        let last = &rounds[rounds.len() - 1];
        let said = last.iter().map(|item| match item.split_once(' ') {
            Some((_, name)) => name.to_owned(),
            None => item.trim_start_matches('0').to_owned(),
        });
        assert_eq!(said.collect::<Vec<_>>().join(comma), turn.answer, "{p:?}");
    });
    each(Kind::Comparing, 300, |p, _| {
        if !matches!(p.form, Form::Older | Form::Younger | Form::More) {
            return;
        }
        let turn = p.last();
        let note = turn.steps.trim_end_matches(['.', '。']);
        let last = note.rsplit(['.', '。']).next().unwrap();
        let (both, best) = last.split_once(['；', ';']).unwrap();
        assert!(best.ends_with(&turn.answer), "{p:?}");
        let [first, second, best] = [&numbers(both)[..], &numbers(best)].concat()[..] else {
            panic!("three numbers in {last}")
        };
        let right = if p.form == Form::Younger { first.min(second) } else { first.max(second) };
        assert_eq!(best, right, "{p:?}");
    });
}

/// Who is more and who is less in "A is taller than B." or "A比B高。", by what the words mean.
fn comparison(lang: Lang, sentence: &str) -> (&str, &str) {
    let (a, b, word) = match lang {
        Lang::En => {
            let words: Vec<&str> = sentence.trim_end_matches('.').split(' ').collect();
            (words[0], words[4], words[2])
        }
        Lang::Zh => {
            let (a, rest) = sentence.split_once('比').unwrap();
            let word = rest.trim_end_matches('。').char_indices().next_back().unwrap().0;
            (a, &rest[..word], &rest[word..rest.len() - '。'.len_utf8()])
        }
    };
    let more = ["taller", "heavier", "faster", "stronger", "高", "重", "快", "强"].contains(&word);
    if more { (a, b) } else { (b, a) }
}

#[test]
fn counts_are_right() {
    each(Kind::Counting, 300, |p, _| {
        let turn = p.last();
        let n: usize = turn.answer.parse().unwrap();
        let counted = match p.form {
            Form::CountWord => {
                let quotes = p.lang.pick(['"', '"'], ['“', '”']);
                let mut quoted = turn.question.split(quotes);
                let word = quoted.nth(1).unwrap();
                let list = turn.question.replace(&format!("{}{word}{}", quotes[0], quotes[1]), "");
                let parts = list.split([',', '、', ':', '：', '.', '。', '?', '？', '，']);
                parts.filter(|w| w.trim() == word).count()
            }
            Form::CountThings => {
                let asked = p.context.iter().find(|s| {
                    let name = s.split(p.lang.pick(" ", "有")).next().unwrap();
                    turn.question.contains(name)
                });
                let list = asked.unwrap().replace(p.lang.pick(" and ", "和"), ",");
                list.split([',', '、']).count()
            }
            Form::CountPeople => {
                let here = p
                    .facts
                    .iter()
                    .filter(|f| turn.question.contains(p.lang.pick(PLACES[f.v].0, PLACES[f.v].1)));
                here.count()
            }
            _ => {
                let colour = |f: &&Fact| {
                    p.facts.iter().filter(|g| g.a == f.a).count() == n
                        && sentence_of(p, f).is_some()
                };
                p.facts.iter().filter(colour).count().min(n)
            }
        };
        assert_eq!(counted, n, "{p:?}");
        stated(p);
    });
}

#[test]
fn instructions_are_followed() {
    each(Kind::Instruct, 300, |p, _| {
        let turn = p.last();
        let words = |text: &str| -> Vec<String> {
            text.split([',', '、']).map(|w| w.trim().to_owned()).collect()
        };
        let said = words(&turn.answer);
        match p.form {
            Form::Repeat => assert!(turn.question.ends_with(&turn.answer), "{p:?}"),
            Form::CountFrom => {
                let ends = numbers(&turn.question);
                let run: Vec<u32> = (ends[0]..=ends[1]).collect();
                assert_eq!(numbers(&turn.answer), run);
            }
            Form::RepeatWord => {
                assert_eq!(said.len(), numbers(&turn.question)[0] as usize);
                assert!(said.iter().all(|w| *w == said[0] && turn.question.contains(w.as_str())));
            }
            Form::Mark if p.lang == Lang::En => {
                assert!(turn.question.contains(&turn.answer.to_lowercase()), "{p:?}");
                assert_eq!(turn.answer, turn.answer.to_uppercase());
            }
            Form::Mark => {
                assert!(turn.question.contains(&turn.answer.replace(['“', '”'], "")), "{p:?}")
            }
            Form::Reverse => {
                let mut list = said.clone();
                list.reverse();
                assert!(turn.question.contains(&list.join(p.lang.pick(", ", "、"))), "{p:?}");
            }
            _ => assert!(said.iter().all(|w| turn.question.contains(w.as_str())), "{p:?}"),
        }
    });
}
