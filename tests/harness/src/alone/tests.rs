//! What a child says, and that its failure is one.

use super::*;

#[test]
fn a_test_runs_in_a_process_of_its_own() {
    let said = run("alone::tests::a_test_runs_in_a_process_of_its_own");
    if let Some(said) = said {
        assert!(said.contains("from the child"), "{said}");
        assert!(!said.contains(&format!("process {};", std::process::id())), "{said}");
    } else {
        println!("from the child, process {};", std::process::id());
    }
}

#[test]
fn a_test_that_fails_there_fails_here() {
    let test = "alone::tests::a_test_that_fails_there_fails_here";
    let outcome = std::panic::catch_unwind(|| run(test));
    if let Ok(None) = outcome {
        panic!("broken in the child");
    }
    let panic = outcome.expect_err("the child failed");
    let said = panic.downcast_ref::<String>().unwrap();
    assert!(said.contains("broken in the child"), "{said}");
}

#[test]
#[should_panic(expected = "alone, gives")]
fn a_test_that_does_not_exist_does_not_pass() {
    run("alone::tests::no_such_test");
}
