"""postgrest (postgrest-py) against the demo fleet: each tenant in each form of its base URL, and both at once."""

import asyncio
import datetime
import itertools
import json
import os
import socket
import time
import unittest
from contextlib import contextmanager

from postgrest import APIError, AsyncPostgrestClient, CountMethod, ReturnMethod, SyncPostgrestClient

with open(os.environ["MANYBOX_CLIENTS"]) as file:
    TENANTS = json.load(file)["tenants"]

# Browsers take *.localhost for this machine without asking anybody; Python asks the system, and few systems know.
system = socket.getaddrinfo


def getaddrinfo(host, *arguments, **more):
    name = host.decode() if isinstance(host, bytes) else host
    return system("127.0.0.1" if name and name.endswith(".localhost") else host, *arguments, **more)


socket.getaddrinfo = getaddrinfo

numbers = itertools.count()


def unique(what):
    """A name that no other test, process or earlier run has given to a row."""
    return f"{what}-{os.getpid()}-{time.time_ns()}-{next(numbers)}"


def free_time():
    """A time that no other test books, whichever process it runs in."""
    start = datetime.datetime(2200, 1, 1, tzinfo=datetime.timezone.utc)
    return (start + datetime.timedelta(minutes=os.getpid() * 10_000 + next(numbers))).isoformat()


def patient(family_name, **more):
    row = {"branch_id": 1, "given_name": "Test", "family_name": family_name, "born_on": "1990-05-17", "sex": "unknown"}
    return {**row, **more}


def headers(token):
    return {"Authorization": f"Bearer {token}"} if token else {}


class Behaviour:
    """What the client must find; a class for each tenant and form of base URL is made of it below."""

    tenant: dict
    other: dict
    form: str

    def connect(self, token=None, tenant=None, form=None):
        url = (tenant or self.tenant)["urls"][form or self.form]
        client = SyncPostgrestClient(url, headers=headers(token))
        self.addCleanup(client.aclose)
        return client

    def setUp(self):
        self.slug = self.tenant["slug"]
        # The demo names branches and addresses after the tenant.
        self.own = self.slug.capitalize()
        self.tokens = self.tenant["tokens"]
        self.anon = self.connect(self.tokens["anon"])
        self.api = self.connect(self.tokens["authenticated"])
        self.service = self.connect(self.tokens["service"])

    @contextmanager
    def refused(self, code):
        with self.assertRaises(APIError) as caught:
            yield caught
        self.assertEqual(caught.exception.code, code, caught.exception)

    def test_reads(self):
        rows = (
            self.api.from_("patients")
            .select("id", "name:full_name", "born:born_on::text", "city:contact->address->>city", "age_years")
            .gte("born_on", "1950-01-01")
            .lt("born_on", "2000-01-01")
            .in_("sex", ["female", "male"])
            .not_.ilike("full_name", "a*")
            .or_("given_name.eq.Ben,family_name.like.*er")
            .order("family_name", desc=True)
            .order("id")
            .limit(20)
            .execute()
            .data
        )
        self.assertGreater(len(rows), 5)
        for row in rows:
            self.assertRegex(row["born"], r"^19[5-9]\d-\d\d-\d\d$")
            self.assertRegex(row["name"], r"^Ben |er$")
            self.assertIsInstance(row["city"], str)
        families = [row["name"].split()[1] for row in rows]
        self.assertEqual(families, sorted(families, reverse=True))

    def test_filters_on_arrays_and_nulls(self):
        rows = self.api.from_("patients").select("allergies").contains("allergies", ["pollen", "nuts"]).limit(5).execute().data
        self.assertEqual(len(rows), 5)
        self.assertTrue(all({"pollen", "nuts"} <= set(row["allergies"]) for row in rows))
        rows = self.api.from_("patients").select("allergies").ov("allergies", ["latex", "aspirin"]).limit(5).execute().data
        self.assertTrue(rows and all({"latex", "aspirin"} & set(row["allergies"]) for row in rows))
        rows = self.api.from_("staff").select("role").is_("specialty", "null").execute().data
        self.assertEqual(len(rows), 4)
        rows = self.api.from_("staff").select("role").eq("role", "physician").not_.is_("specialty", "null").execute().data
        self.assertEqual(len(rows), 4)

    def test_create_read_update_delete(self):
        family = unique("crud")
        [made] = self.api.from_("patients").insert(patient(family, contact={"phone": "+44 7700 900000"})).execute().data
        self.assertEqual(made["full_name"], f"Test {family}")
        several = self.api.from_("patients").insert([patient(family), patient(family, sex="other")]).execute().data
        self.assertEqual([row["sex"] for row in several], ["unknown", "other"])
        minimal = self.api.from_("patients").insert(patient(family), returning=ReturnMethod.minimal).execute().data
        self.assertEqual(minimal, [])

        self.assertEqual(len(self.api.from_("patients").select("id").eq("family_name", family).execute().data), 4)
        changed = (
            self.api.from_("patients")
            .update({"sex": "female", "allergies": ["latex"]})
            .eq("id", made["id"])
            .select("sex", "allergies", "contact->>phone")
            .execute()
            .data
        )
        self.assertEqual(changed, [{"sex": "female", "allergies": ["latex"], "phone": "+44 7700 900000"}])

        with self.refused("42501"):
            self.api.from_("patients").delete().eq("id", made["id"]).execute()
        gone = self.service.from_("patients").delete().eq("family_name", family).execute().data
        self.assertEqual(len(gone), 4)
        self.assertEqual(self.api.from_("patients").select("id").eq("family_name", family).execute().data, [])

    def test_errors_of_the_database(self):
        with self.refused("23514"):
            self.api.from_("patients").insert(patient(unique("bad"), sex="neither")).execute()
        with self.refused("23502"):
            self.api.from_("patients").insert({"branch_id": 1}).execute()
        with self.refused("42501"):
            self.api.from_("patients").insert(patient(unique("bad"), branch_id=2)).execute()
        with self.refused("42703"):
            self.api.from_("patients").select("nothing").execute()
        with self.refused("PGRST205") as caught:
            self.api.from_("patient").select("*").execute()
        self.assertIn("patients", caught.exception.hint)

    def test_embeds(self):
        rows = (
            self.api.from_("appointments")
            .select("id", "patients(full_name)", "staff(email,branches(name))", "...services(service:name,price)")
            .order("id")
            .limit(10)
            .execute()
            .data
        )
        self.assertEqual(len(rows), 10)
        for row in rows:
            self.assertIsInstance(row["patients"]["full_name"], str)
            self.assertTrue(row["staff"]["email"].endswith(f"@{self.slug}.example"))
            self.assertTrue(row["staff"]["branches"]["name"].startswith(self.own))
            self.assertIsInstance(row["service"], str)
        branches = self.service.from_("branches").select("name", "team:staff(email)").order("id").limit(5).execute().data
        self.assertEqual([len(branch["team"]) for branch in branches], [8] * 5)

    def test_embeds_with_order_limit_and_filters(self):
        rows = (
            self.api.from_("staff")
            .select("id", "appointments(starts_at,status)")
            .eq("role", "physician")
            .neq("appointments.status", "cancelled")
            .order("starts_at", desc=True, foreign_table="appointments")
            .limit(3, foreign_table="appointments")
            .execute()
            .data
        )
        self.assertEqual(len(rows), 4)
        for row in rows:
            times = [one["starts_at"] for one in row["appointments"]]
            self.assertEqual(len(times), 3)
            self.assertEqual(times, sorted(times, reverse=True))
            self.assertTrue(all(one["status"] != "cancelled" for one in row["appointments"]))
        name = f"{self.own} Riverside"
        inner = self.service.from_("staff").select("email", "branches!inner(name)").eq("branches.name", name).execute().data
        self.assertEqual([row["branches"]["name"] for row in inner], [name] * 8)
        left = self.service.from_("staff").select("email", "branches(name)").eq("branches.name", name).execute().data
        self.assertEqual(len(left), 40)
        idle = self.api.from_("staff").select("role", "appointments()").is_("appointments", "null").execute().data
        self.assertTrue(idle and all(row["role"] != "physician" for row in idle))
        with self.refused("PGRST200"):
            self.api.from_("services").select("id", "staff(id)").execute()

    def test_functions(self):
        who = self.api.rpc("whoami", {}).execute().data
        self.assertEqual((who["role"], who["claims"]["branch"]), ("authenticated", 1))
        self.assertEqual(self.anon.rpc("whoami", {}, get=True).execute().data["role"], "anon")

        staff = self.api.from_("staff").select("id").eq("role", "physician").order("id").limit(1).execute().data[0]["id"]
        visitor = self.api.from_("patients").select("id", "full_name").order("id").limit(1).execute().data[0]
        summary = self.api.rpc("patient_summary", {"patient_id": visitor["id"]}).execute().data
        self.assertEqual((summary["id"], summary["name"]), (visitor["id"], visitor["full_name"]))

        booking = {"patient_id": visitor["id"], "staff_id": staff, "service_id": 1, "starts_at": free_time()}
        booked = self.api.rpc("book_appointment", booking).execute().data
        self.assertEqual((booked["status"], booked["patient_id"]), ("booked", visitor["id"]))
        with self.refused("23505"):
            self.api.rpc("book_appointment", booking).execute()
        with self.refused("PT404") as caught:
            self.api.rpc("book_appointment", {**booking, "patient_id": -1}).execute()
        self.assertIn("branch that you can see", caught.exception.hint)
        with self.refused("PGRST202"):
            self.api.rpc("book_appointmnt", booking).execute()
        gone = self.api.from_("appointments").delete().eq("id", booked["id"]).execute().data
        self.assertEqual(len(gone), 1)

        year = {"from": "2000-01-01", "to": "2099-12-31"}
        everywhere = self.service.rpc("branch_revenue", year).order("branch_id").execute().data
        self.assertEqual([row["branch"].split()[0] for row in everywhere], [self.own] * 5)
        some = self.service.rpc("branch_revenue", year).select("branch").gte("branch_id", "4").order("branch_id", desc=True)
        self.assertEqual(some.execute().data, [{"branch": f"{self.own} Station"}, {"branch": f"{self.own} Northgate"}])

    def test_upserts(self):
        code = unique("up")

        def row(name, price):
            return {"code": code, "name": name, "price": price, "duration": "00:20:00"}

        def upsert(row, **more):
            return self.service.from_("services").upsert(row, on_conflict="code", **more).execute().data

        [first] = upsert(row("One", 10))
        [second] = upsert(row("Two", 20))
        self.assertEqual((second["id"], second["name"], second["price"]), (first["id"], "Two", 20))
        self.assertEqual(upsert(row("Three", 30), ignore_duplicates=True), [])
        with self.refused("23505"):
            self.service.from_("services").insert(row("Four", 40)).execute()
        [gone] = self.service.from_("services").delete().eq("code", code).execute().data
        self.assertEqual(gone["name"], "Two")

        query = self.api.from_("invoice_lines").select("*", "invoices!inner(status)").eq("invoices.status", "draft").eq("line", 1)
        line = query.limit(1).single().execute().data
        del line["invoices"], line["amount"]
        [again] = self.api.from_("invoice_lines").upsert({**line, "quantity": 3}).execute().data
        self.assertEqual((again["invoice_id"], again["line"], again["quantity"]), (line["invoice_id"], 1, 3))

    def test_counts_and_ranges(self):
        page = self.service.from_("staff").select("id", count=CountMethod.exact).order("id").range(10, 14).execute()
        self.assertEqual((len(page.data), page.count), (5, 40))
        head = self.api.from_("staff").select("*", count=CountMethod.exact, head=True).execute()
        self.assertEqual((head.data, head.count), ([], 8))
        planned = self.service.from_("patients").select("id", count=CountMethod.planned).limit(1).execute()
        self.assertGreater(planned.count, 0)
        with self.refused("PGRST103"):
            self.service.from_("staff").select("id", count=CountMethod.exact).range(1000, 1010).execute()

    def test_one_object(self):
        def query(number):
            return self.api.from_("branches").select("id", "name").lte("id", str(number))

        self.assertEqual(query(1).single().execute().data["name"], f"{self.own} Centre")
        self.assertEqual(query(1).maybe_single().execute().data["name"], f"{self.own} Centre")
        self.assertIsNone(query(0).maybe_single().execute())
        with self.refused("PGRST116"):
            query(0).single().execute()
        with self.refused("PGRST116") as caught:
            query(3).single().execute()
        self.assertIn("3 rows", caught.exception.details)

    def test_what_fewer_applications_use(self):
        found = self.api.from_("services").select("name").text_search("name", "test | scan", {"config": "english"}).execute()
        self.assertEqual(found.data, [{"name": "Blood test"}])
        self.assertEqual(len(self.api.from_("services").select("code").match({"code": "ECG", "is_offered": "true"}).execute().data), 1)
        [stripped] = self.api.from_("staff").select("id", "specialty").is_("specialty", "null").limit(1).strip_nulls().execute().data
        self.assertEqual(list(stripped), ["id"])

        family = unique("bulk")
        # Columns that a row leaves out: null, which is refused here, or the column's default.
        rows = [patient(family, allergies=["nuts"]), patient(family)]
        with self.refused("23502"):
            self.api.from_("patients").insert(rows).execute()
        made = self.api.from_("patients").insert(rows, default_to_null=False).execute().data
        self.assertEqual([row["allergies"] for row in made], [["nuts"], []])
        with self.refused("PGRST124"):
            self.api.from_("patients").update({"sex": "male"}).eq("family_name", family).max_affected(1).execute()
        gone = self.service.from_("patients").delete().eq("family_name", family).execute().data
        self.assertEqual([row["sex"] for row in gone], ["unknown", "unknown"])

    def test_csv(self):
        text = self.api.from_("branches").select("id", "name").order("id").limit(2).csv().execute().data
        self.assertEqual(text.splitlines(), ["id,name", f'1,"{self.own} Centre"', f'2,"{self.own} Riverside"'])

    def test_auth(self):
        public = self.connect()
        self.assertEqual(len(public.from_("branches").select("id").execute().data), 5)
        for client in (public, self.anon):
            with self.refused("42501"):
                client.from_("patients").select("id").execute()
        for token in self.other["tokens"].values():
            client = self.connect(token)
            with self.refused("PGRST301"):
                client.from_("branches").select("id").execute()
            with self.refused("PGRST301"):
                client.from_("patients").insert(patient(unique("foreign"))).execute()
        with self.refused("PGRST303"):
            self.connect(self.tokens["expired"]).from_("branches").select("id").execute()
        for token, branch in (("authenticated", 1), ("own", 1), ("branch2", 2)):
            rows = self.connect(self.tokens[token]).from_("patients").select("branch_id").execute().data
            self.assertEqual({row["branch_id"] for row in rows}, {branch})

    def test_sees_its_own_rows_alone(self):
        staff = self.service.from_("staff").select("email").execute().data
        self.assertEqual(len(staff), 40)
        self.assertTrue(all(row["email"].endswith(f"@{self.slug}.example") for row in staff))
        family = unique(f"of-{self.slug}")
        self.api.from_("patients").insert(patient(family)).execute()
        there = self.connect(self.other["tokens"]["service"], self.other, "prefix")
        self.assertEqual(there.from_("patients").select("id").eq("family_name", family).execute().data, [])
        self.assertEqual(len(self.service.from_("patients").delete().eq("family_name", family).execute().data), 1)


for one in TENANTS:
    for form in one["urls"]:
        name = f"{one['slug'].capitalize()}By{form.capitalize()}"
        other = next(other for other in TENANTS if other is not one)
        made = {"tenant": one, "form": form, "other": other, "__module__": __name__}
        globals()[name] = type(name, (Behaviour, unittest.TestCase), made)


class BothAtOnce(unittest.IsolatedAsyncioTestCase):
    """The client's other half, asynchronous: 200 requests at once, tenants, roles and base URLs mixed."""

    async def asyncSetUp(self):
        # unittest turns it on, and it then tells of every step that took a while.
        asyncio.get_running_loop().set_debug(False)

    async def test_each_request_sees_its_own_rows(self):
        clients = [
            (tenant["slug"], role, AsyncPostgrestClient(url, headers=headers(tenant["tokens"][role])))
            for tenant in TENANTS
            for url in tenant["urls"].values()
            for role in ("authenticated", "service")
        ]

        async def ask(slug, role, client):
            rows = (await client.from_("staff").select("email").execute()).data
            self.assertEqual(len(rows), 40 if role == "service" else 8)
            self.assertTrue(all(row["email"].endswith(f"@{slug}.example") for row in rows), slug)

        try:
            await asyncio.gather(*(ask(*clients[n % len(clients)]) for n in range(200)))
        finally:
            for _, _, client in clients:
                await client.aclose()


if __name__ == "__main__":
    unittest.main()
