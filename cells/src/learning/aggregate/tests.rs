use super::*;

fn name(text: &str) -> Fqcn {
    text.parse().unwrap()
}

fn two_sites() -> Aggregate {
    Aggregate::new([name("site-2"), name("relay.site-1")])
}

fn contribution(value: f64) -> Contribution {
    Contribution { rows: 2.0, loss: 1.0, sum: vec![value; WEIGHTS] }
}

#[test]
fn the_mean_weighs_every_row_alike() {
    let mut aggregate = Aggregate::new([name("a"), name("b")]);
    aggregate.add(&name("a"), Contribution { rows: 3.0, ..contribution(3.0) }).unwrap();
    aggregate.add(&name("b"), Contribution { rows: 1.0, ..contribution(5.0) }).unwrap();
    let mean = aggregate.mean().unwrap();
    assert_eq!(mean, Mean::new(&vec![8.0; WEIGHTS], 2.0, 4.0).unwrap());
    assert_eq!(mean.loss(), 0.5);
}

#[test]
fn the_order_of_arrival_does_not_change_a_bit() {
    let sites = ["a", "b", "c"].map(name);
    let sums = [1e16, 1.0, -1e16].map(contribution);
    let mut means = Vec::new();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut aggregate = Aggregate::new(sites.clone());
        for at in order {
            aggregate.add(&sites[at], sums[at].clone()).unwrap();
        }
        means.push(aggregate.mean().unwrap());
    }
    assert!(means.iter().all(|mean| *mean == means[0]));
}

#[test]
fn s0_16_what_is_not_finite_is_refused_by_site_and_element_and_changes_nothing() {
    let site = name("site-2");
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut aggregate = two_sites();
        let before = aggregate.clone();
        let mut bad = contribution(1.0);
        bad.sum[123] = value;

        let refused = aggregate.add(&site, bad).unwrap_err();

        assert_eq!(refused.code(), "NOT_FINITE");
        assert_eq!(refused.to_string(), format!("site-2 sent {value} as element 123"));
        assert_eq!(aggregate, before);
        aggregate.add(&site, contribution(1.0)).expect("the slot is still free");
    }
}

#[test]
fn s0_17_rows_that_cannot_be_counted_are_refused_and_change_nothing() {
    let site = name("site-2");
    let mut aggregate = two_sites();
    let before = aggregate.clone();
    let bad = [0.0, -0.0, -1.0, 0.5, 1.5, 1e9 + 1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    for rows in bad {
        let refused = aggregate.add(&site, Contribution { rows, ..contribution(1.0) }).unwrap_err();
        assert_eq!(refused.code(), "BAD_ROWS", "{rows}");
        assert!(
            refused.to_string().starts_with(&format!("site-2 claims {rows} rows")),
            "{refused}"
        );
        assert_eq!(aggregate, before);
    }
}

#[test]
fn s0_16_a_loss_that_no_rows_can_have_is_refused() {
    let site = name("site-2");
    let mut aggregate = two_sites();
    let before = aggregate.clone();
    for loss in [f64::NAN, f64::INFINITY, -1.0] {
        let refused = aggregate.add(&site, Contribution { loss, ..contribution(1.0) }).unwrap_err();
        assert_eq!(refused.code(), "BAD_LOSS", "{loss}");
        assert_eq!(aggregate, before);
    }
}

#[test]
fn a_wrong_length_an_unknown_site_and_a_second_time_are_refused() {
    let (known, unknown) = (name("site-2"), name("site-3"));
    let mut aggregate = two_sites();
    let before = aggregate.clone();

    for found in [0, WEIGHTS - 1, WEIGHTS + 1] {
        let bad = Contribution { sum: vec![1.0; found], ..contribution(1.0) };
        let refused = aggregate.add(&known, bad).unwrap_err();
        assert_eq!(refused, Refused::WrongLength { site: known.clone(), found });
    }
    let refused = aggregate.add(&unknown, contribution(1.0)).unwrap_err();
    assert_eq!(refused, Refused::UnknownSite { site: unknown });
    assert_eq!(aggregate, before);

    aggregate.add(&known, contribution(1.0)).unwrap();
    let once = aggregate.clone();
    let refused = aggregate.add(&known, contribution(2.0)).unwrap_err();
    assert_eq!(refused, Refused::Twice { site: known });
    assert_eq!(aggregate, once);
}

#[test]
fn a_round_with_a_missing_site_has_no_mean_and_says_who_is_missing() {
    let mut aggregate = two_sites();
    assert_eq!(aggregate.mean().unwrap_err().to_string(), "missing: relay.site-1, site-2");
    aggregate.add(&name("relay.site-1"), contribution(1.0)).unwrap();
    assert_eq!(aggregate.mean().unwrap_err().to_string(), "missing: site-2");
    assert!(aggregate.has(&name("relay.site-1")));
    assert!(!aggregate.has(&name("site-2")));
    aggregate.add(&name("site-2"), contribution(1.0)).unwrap();
    assert!(aggregate.mean().is_ok());
    assert!(Aggregate::new([]).mean().is_err());
}

#[test]
fn finite_numbers_whose_sum_is_not_are_refused_at_the_site_that_was_too_much() {
    let mut aggregate = Aggregate::new([name("a"), name("b")]);
    let mut huge = contribution(1.0);
    huge.sum[9] = f64::MAX;
    aggregate.add(&name("a"), huge.clone()).unwrap();
    aggregate.add(&name("b"), huge).unwrap();
    let refused = aggregate.mean().unwrap_err();
    assert_eq!(refused, Refused::Overflow { site: name("b"), element: Some(9) });

    let mut aggregate = Aggregate::new([name("a"), name("b")]);
    for site in ["a", "b"] {
        aggregate.add(&name(site), Contribution { loss: f64::MAX, ..contribution(1.0) }).unwrap();
    }
    assert_eq!(aggregate.mean().unwrap_err().to_string(), "adding what b sent overflows the loss");
}
