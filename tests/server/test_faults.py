from faktory.server.faults import Fault, Faults

DROP, ERROR = Fault("drop before"), Fault("error", message="no")


def test_faults_happen_in_the_order_planned_and_to_their_verb_only():
    faults = Faults()
    faults.plan("PUSH", DROP, 2)
    faults.plan("PUSH", ERROR, 1)
    assert faults.pop(b"ACK") is None
    assert [faults.pop(b"PUSH") for _ in range(4)] == [DROP, DROP, ERROR, None]
    assert not faults


def test_clearing_forgets_planned_faults_but_not_held_verbs():
    faults = Faults()
    faults.plan("PUSH", DROP, 1)
    faults.held.add(b"FETCH")
    faults.clear()
    assert faults.pop(b"PUSH") is None
    assert faults
